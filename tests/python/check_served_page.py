"""The page of `cart serve` in a real browser, over a running model.

Usage: check_served_page.py CART MODEL CHROMIUM [PICTURES]

Packs MODEL, tells it something, serves it, and opens the page in Chromium: a question is answered as a stream, and what memory had to do with it is shown; a
swap under a running stream ends with a report and no stream dropped, and is rolled back; a swap that is refused says why; what is told becomes a row of the
memory; with a key, the page asks for it. Colours follow the system and the button, everything can be reached by keyboard, text stands out from its ground,
nothing is asked of another server, and no text is markup. With PICTURES, screenshots are kept there. Needs: playwright.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

from playwright.sync_api import expect, sync_playwright

from check_page import CONTRAST

CART, MODEL, CHROMIUM, *PICTURES = sys.argv[1:]
FACT = "The access code of the red boat is 4821."
HOSTILE = "<img src=x onerror=\"document.title='taken'\"> & the lamp is in box 999."
KEY = "a-key-of-some-length"


def cart(store, *arguments):
    done = subprocess.run([CART, "--store", store, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.returncode, done.stderr)
    return done.stdout


class Served:
    def __init__(self, store, *arguments):
        # One thread, so that the browser has a core and keeps up with what is told.
        command = [CART, "--store", store, "serve", *arguments, "--listen", "127.0.0.1:0", "--threads", "1"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        found = None
        while found is None:
            line = self.process.stdout.readline()
            assert line, f"the server said no address and ended with {self.process.wait()}"
            found = re.search(r"http://[0-9.]+:\d+", line)
        self.address = found.group()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)


def picture(page, name):
    if PICTURES:
        page.screenshot(path=pathlib.Path(PICTURES[0]) / f"{name}.png")


# Stops a story once it has gone on after a swap. Done by the page itself, as a quick machine tells a story to its end
# while this program looks for the button.
STOP = """() => {
    let length = null;
    const looks = new MutationObserver(() => {
        if (!document.querySelector(".turn .moved")) return;
        const story = [...document.querySelectorAll(".turn:not(.mine) .said")].at(-1).textContent.length;
        length ??= story;
        if (story > length) {
            looks.disconnect();
            document.querySelector("#stop").click();
            document.body.dataset.stopped = "yes";
        }
    });
    looks.observe(document.body, { childList: true, subtree: true, characterData: true });
}"""


def opened(browser, served, scheme="light", **more):
    page = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 860}, **more)
    page.asked, page.troubles = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("console", lambda said: page.troubles.append(said.text) if said.type in ("error", "warning") else None)
    page.goto(served.address)
    return page


def say(page, text):
    page.fill("#question", text)
    page.press("#question", "Enter")


def answered(page, count):
    expect(page.locator(".turn:not(.mine) details, .turn:not(.mine) p.soft, .turn:not(.mine) p.failed")).to_have_count(count, timeout=120_000)


def chat(page):
    expect(page.locator("#running")).to_contain_text("told, generation 1", timeout=30_000)
    expect(page.locator("#facts")).to_contain_text("million")
    expect(page.locator("#slots tbody tr")).to_have_count(2)
    assert HOSTILE.split(" ")[0] in page.locator("#slots").inner_text(), "the text of a slot is shown as it is"
    page.fill("#tokens", "24")
    say(page, "What is the access code of the red boat?")
    answered(page, 1)
    answer = page.locator(".turn:not(.mine) .said").inner_text()
    why = page.locator(".turn:not(.mine) details")
    assert "1 slot read" in why.locator("summary").inner_text() and "nats a token" in why.locator("summary").inner_text(), why.inner_text()
    why.locator("summary").click()
    assert FACT in why.inner_text(), why.inner_text()
    assert "4821" in answer, answer
    expect(page.locator("#slots tr.read")).to_have_count(1)
    # What was said is remembered, and shown without a reload.
    expect(page.locator("#slots tbody tr")).not_to_have_count(2, timeout=15_000)
    picture(page, "chat")


def swap(page):
    # Everything is set before the story begins: a quick machine tells it in seconds.
    page.fill("#tokens", "2000")
    page.fill("#ref", "plain")
    page.select_option("#in-flight", "boundary")
    say(page, "Tell me a long story about a lighthouse.")
    page.evaluate(STOP)
    story = page.locator(".turn:not(.mine) .said").nth(1)
    expect(story).to_contain_text(re.compile(r"\w+ \w+ \w+"), timeout=60_000)
    page.locator("#do-swap").press("Enter")
    expect(page.locator("#swap-said")).to_contain_text("0 dropped", timeout=60_000)
    assert page.locator("#stages li.done").count() == 5
    expect(page.locator("#running")).to_contain_text("plain, generation 2", timeout=10_000)
    expect(page.locator(".turn .moved")).to_have_count(1, timeout=30_000)
    answered(page, 2)
    assert page.evaluate("document.body.dataset.stopped") == "yes", "the story went on after the swap, and was stopped"
    expect(page.locator("#slots")).not_to_contain_text(FACT, timeout=10_000)
    picture(page, "swapped")
    page.locator("#rollback").press("Enter")
    expect(page.locator("#running")).to_contain_text("told, generation", timeout=30_000)
    expect(page.locator("#slots")).to_contain_text(FACT, timeout=10_000)
    page.fill("#ref", "nobody")
    page.locator("#do-swap").click()
    expect(page.locator("#swap-said")).to_contain_text("not swapped", timeout=10_000)
    expect(page.locator("#swap-said")).to_contain_text("nobody")


def reach(page):
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(() => { const e = document.activeElement; return e.id || e.getAttribute('aria-labelledby') || e.textContent.trim(); })()"))
    wanted = {"To the question", "theme", "exchange", "question", "reads", "writes", "tokens", "send", "ref", "in-flight", "policy", "do-swap", "memory-title", "History"}
    assert wanted <= reached, wanted - reached
    tree = page.locator("body").aria_snapshot()
    for role in ("main \"Chat\"", "complementary \"The agent\"", "log \"What was said\"", "textbox \"Your message\"", "list \"Stages of the swap\"", "table \"Slots"):
        assert role in tree, (role, tree[:3000])
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    picture(page, "narrow")


def colours(page, scheme):
    dark = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark() == (scheme == "dark")
    ratio, where = page.evaluate(CONTRAST)
    assert ratio >= 4.5, f"contrast {ratio:.2f} in {scheme}: {where}"
    seen = []
    for _ in range(3):
        page.locator("#theme").press("Enter")
        seen.append(dark())
    assert seen == [scheme == "dark" if at == 2 else bool(at) for at in range(3)], seen
    return ratio


def with_a_key(browser, store):
    with Served(store, "plain", "--api-key", KEY) as served:
        page = opened(browser, served)
        expect(page.locator("#key-dialog")).to_be_visible(timeout=10_000)
        page.fill("#key", "not this one at all")
        page.press("#key", "Enter")
        expect(page.locator("#key-dialog")).to_be_visible(timeout=10_000)
        page.fill("#key", KEY)
        page.press("#key", "Enter")
        expect(page.locator("#running")).to_contain_text("plain, generation 1", timeout=10_000)
        page.close()


def foreign_pages(served):
    def status(**headers):
        body = b'{"ref": "plain"}'
        request = urllib.request.Request(served.address + "/cart/swap", body, {"content-type": "text/plain", **headers})
        try:
            return urllib.request.urlopen(request, timeout=30).status
        except urllib.error.HTTPError as error:
            return error.code

    assert status(origin="https://example.org") == 403 and status(origin="null") == 403
    assert status(host="example.org") == 403


def main():
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as play:
        scratch = pathlib.Path(scratch)
        store = scratch / "store"
        (scratch / "told.txt").write_text(f"{FACT}\n\n{HOSTILE}\n")
        cart(store, "pack", MODEL, "-t", "plain")
        cart(store, "memory", "import", "plain", scratch / "told.txt", "--save", "told")
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with Served(store, "told") as served:
            page = opened(browser, served)
            chat(page)
            swap(page)
            ratio = colours(page, "light")
            reach(page)
            assert all(url.startswith(served.address) or url.startswith("data:") for url in page.asked), page.asked
            # The only refusal that a browser reports is that of the swap to nobody.
            assert [said for said in page.troubles if "404" not in said] == [] and len(page.troubles) == 1, page.troubles
            assert "taken" not in page.title() and not page.query_selector("main img, aside img")
            page.close()
            night = opened(browser, served, "dark")
            expect(night.locator("#slots")).to_contain_text(FACT, timeout=10_000)
            picture(night, "dark")
            ratio = min(ratio, colours(night, "dark"))
            night.close()
            foreign_pages(served)
        with_a_key(browser, store)
        browser.close()
    print(f"the page: least contrast {ratio:.1f}, a chat, a swap under a stream, a rollback, a refusal, a key")


if __name__ == "__main__":
    main()
