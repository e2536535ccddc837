"""The page of `cart diff --html` in a real browser.

Usage: check_page.py CART CHROMIUM [PICTURES]

Packs the tiny model and a changed copy, lets both remember something, writes the page, and opens it in Chromium: nothing is asked of the network, no
script fails, no text of a memory is markup, colours follow the system and the button, tables sort and filter, everything can be reached by keyboard, and text
stands out from its ground. With PICTURES, screenshots are kept there. Needs: playwright.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

from playwright.sync_api import sync_playwright

CART, CHROMIUM, *PICTURES = sys.argv[1:] if __name__ == "__main__" else ("", "")
ROOT = pathlib.Path(__file__).resolve().parents[2]
HOSTILE = "<img src=x onerror=\"document.title='taken'\"> & the lamp is in box 999."

# Of every element with a text of its own: the least contrast of text and ground (WCAG 2, formula of relative luminance).
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  canvas.canvas.width = canvas.canvas.height = 1;
  const rgb = (colour, under) => {
    canvas.fillStyle = `rgb(${under})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (parts) => {
    const [r, g, b] = parts.map((p) => p / 255).map((p) => (p <= 0.04045 ? p / 12.92 : ((p + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    if (!element) return [255, 255, 255];
    return rgb(getComputedStyle(element).backgroundColor, ground(element.parentElement));
  };
  let least = [99, ""];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length || element.closest("svg, script, style, .unseen, .skip")) continue;
    const [a, b] = [light(rgb(getComputedStyle(element).color, ground(element))), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least[0]) least = [ratio, element.tagName + "." + element.className + ": " + element.textContent.slice(0, 40)];
  }
  return least;
}"""


def cart(store, *arguments):
    done = subprocess.run([CART, "--store", store, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.returncode, done.stderr)
    return done.stdout


def make(scratch):
    store, page = scratch / "store", scratch / "page.html"
    other = scratch / "other"
    shutil.copytree(ROOT / "fixtures/tiny", other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    for at in range(len(weights) // 2, len(weights) // 2 + 200_000, 8):
        weights[at + 1] ^= 0x80
    (other / "model.safetensors").write_bytes(weights)
    tokenizer = (other / "tokenizer_config.json").read_text()
    (other / "tokenizer_config.json").write_text(tokenizer.replace("{% for", "You are kind.\\n{% for", 1))
    (scratch / "first.txt").write_text("The mill stands at the river.\n")
    (scratch / "second.txt").write_text(f"The mill stands at the river.\n\n{HOSTILE}\n\nThe ferry leaves at nine.\n")
    for name, folder, text in (("a", ROOT / "fixtures/tiny", "first.txt"), ("b", other, "second.txt")):
        cart(store, "pack", folder, "-t", name)
        cart(store, "memory", "import", name, scratch / text, "--save", f"{name}:told")
    cart(store, "diff", "a:told", "b:told", "--rank", "--behaviour", "--steps", "12", "--html", page)
    return page


def check(browser, page_file, scheme):
    asked, troubles = [], []
    page = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda said: troubles.append(said.text) if said.type in ("error", "warning") else None)
    page.goto(page_file.as_uri())
    assert asked == [page_file.as_uri()], asked
    assert "what differs" in page.title() and not page.query_selector("main img"), page.title()
    assert page.locator("#memory").inner_text().count(HOSTILE), "the text of the memory is shown as it is"
    headings = page.locator("h2").all_inner_texts()
    assert headings[:3] == ["Weights", "Behaviour", "Memory"], headings

    dark = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark() == (scheme == "dark")
    ratio, where = page.evaluate(CONTRAST)
    assert ratio >= 4.5, f"contrast {ratio:.2f} in {scheme}: {where}"
    if PICTURES:
        page.screenshot(path=pathlib.Path(PICTURES[0]) / f"{scheme}.png", full_page=True)

    # The button goes through light and dark, whatever the system says.
    seen = []
    for _ in range(3):
        page.locator("#theme").press("Enter")
        seen.append(dark())
    assert seen == [False, True, scheme == "dark"], seen

    rows = lambda: page.locator("#tensors tbody tr:visible th").all_inner_texts()
    before = rows()
    page.locator("#tensors thead button", has_text="Name").press("Enter")
    assert rows() == sorted(before) and len(before) > 3, rows()
    numbers = lambda: [float(value) for value in page.eval_on_selector_all("#tensors tbody td:nth-child(3)", "cells => cells.map(cell => cell.dataset.value)")]
    page.locator("#tensors thead button", has_text="max").click()
    assert numbers() == sorted(numbers(), reverse=True)
    assert page.locator("#tensors th[aria-sort=descending]").count() == 1
    word = before[0].split(".")[-2]
    page.fill("#filter", word)
    assert rows() and all(word in name for name in rows()), rows()
    assert page.locator("#found").inner_text().endswith(f"of {len(before)}")
    page.fill("#filter", "")

    # What scrolls, opens or sorts is reached by the tab key.
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("""() => { const e = document.activeElement;
            return e.id || e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.textContent.trim(); }"""))
    for place in ("To the findings", "theme", "Weights", "Layers by modules", "filter", "tensors-title", "memory-title", "The same as a table"):
        assert place in reached, (place, reached)
    # Names and roles, as assistive technology has them.
    tree = page.locator("body").aria_snapshot()
    for role in ("navigation \"Sections\"", "main", "table \"How far each part moved", "rowheader", "columnheader", "img \"Bars of the number"):
        assert role in tree, (role, tree[:3000])
    # On a narrow screen nothing but tables scrolls sideways.
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    if PICTURES:
        page.screenshot(path=pathlib.Path(PICTURES[0]) / f"{scheme}-narrow.png")
    assert troubles == [], troubles
    page.close()
    print(f"{scheme}: least contrast {ratio:.1f}, {len(before)} tensors sorted and filtered, {len(reached)} stops of the tab key")


def main():
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        page = make(pathlib.Path(scratch))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            check(browser, page, scheme)
        # Without scripts the page is whole.
        plain = browser.new_context(java_script_enabled=False).new_page()
        plain.goto(page.as_uri())
        assert plain.locator("#tensors tbody tr").count() > 3 and not plain.locator("#theme").is_visible()
        browser.close()
    print("the page holds in a browser")


if __name__ == "__main__":
    main()
