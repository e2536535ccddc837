"""`cart chat` in a real terminal, driven key by key through tmux.

Usage: check_terminal.py CART MODEL [FILE]

Packs MODEL, tells it something, and chats: an answer out of memory, /why, a line recalled with the arrow key, a message of two lines, Ctrl-C in the middle of
an answer, Ctrl-C at the prompt, /undo, /swap, /save, Ctrl-D. With FILE, what the screen showed is kept there. Needs: tmux.
"""

import pathlib
import shlex
import subprocess
import sys
import tempfile
import time

CART, MODEL, *KEPT = sys.argv[1:]
FACT = "The access code of the red boat is 4821."


class Terminal:
    """A window of tmux, on a server of its own."""

    def __init__(self, folder, command):
        self.socket = str(folder / "tmux")
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", "110", "-y", "50", command)
        self.tmux("set-option", "-g", "remain-on-exit", "on")
        self.tmux("set-option", "-g", "history-limit", "5000")

    def tmux(self, *words):
        done = subprocess.run(["tmux", "-S", self.socket, *words], capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def screen(self):
        return self.tmux("capture-pane", "-p", "-S", "-").rstrip()

    def keys(self, *keys):
        self.tmux("send-keys", *keys)

    def say(self, text):
        self.tmux("send-keys", "-l", text)
        self.keys("Enter")

    def wait(self, what, is_there, seconds=120):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            screen = self.screen()
            if is_there(screen):
                return screen
            time.sleep(0.1)
        raise SystemExit(f"waited for {what} and saw:\n{self.screen()}")

    def prompted(self, count):
        """Waits until the prompt has come so often, the last line being one that is empty."""
        lines = lambda screen: [line for line in screen.splitlines() if line.startswith(">")]
        return self.wait(f"prompt {count}", lambda screen: len(lines(screen)) == count and screen.splitlines()[-1].strip() == ">")

    def close(self):
        subprocess.run(["tmux", "-S", self.socket, "kill-server"], capture_output=True)


def cart(store, *arguments):
    done = subprocess.run([CART, "--store", store, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


def after(screen, said):
    """What stands after what was typed; nothing while that is not there."""
    return screen.rpartition(said)[2] if said in screen else ""


def chat(store, folder):
    # The screen says how it ended, as tmux does not always know. A shell that has a trap goes on after Ctrl-C, and its child has none.
    words = ["sh", "-c", 'trap : INT; "$@"; echo "ended with $?"', "sh", CART, "--store", store, "chat", "told", "--memory", "--max-tokens", "300"]
    terminal = Terminal(folder, shlex.join(map(str, words)))
    try:
        terminal.prompted(1)
        question = "What is the access code of the red boat?"
        terminal.say(question)
        screen = terminal.prompted(2)
        assert "4821" in after(screen, question), screen
        terminal.say("/why")
        screen = terminal.prompted(3)
        assert FACT in after(screen, "/why"), screen

        # Up goes past /why to the question.
        terminal.keys("Up", "Up")
        terminal.wait("the question again", lambda screen: screen.splitlines()[-1].strip() == f"> {question}", 10)
        terminal.keys("C-u")
        terminal.wait("an empty line", lambda screen: screen.splitlines()[-1].strip() == ">", 10)

        terminal.say("Write a long story about a lighthouse\\")
        terminal.wait("the second line", lambda screen: screen.splitlines()[-1].startswith("…"), 10)
        terminal.say("and the sea, with many words.")
        said = "with many words."
        terminal.wait("some of the story", lambda screen: len(after(screen, said).split()) > 5)
        terminal.keys("C-c")
        screen = terminal.prompted(4)
        words = len(after(screen, said).split())
        assert 5 < words < 280, f"{words} words were said before and after Ctrl-C"

        terminal.keys("h", "e", "C-c")
        terminal.prompted(5)
        terminal.say("/undo")
        screen = terminal.prompted(6)
        assert "taken back" in after(screen, "/undo"), screen
        terminal.say("/swap plain carry")
        screen = terminal.prompted(7)
        assert "going on with plain, with the memory so far" in screen, screen
        terminal.say("/recall the red boat")
        screen = terminal.prompted(8)
        assert FACT in after(screen, "/recall the red boat"), screen
        terminal.say("/save kept")
        screen = terminal.prompted(9)
        assert "saved kept" in after(screen, "/save kept"), screen
        if KEPT:
            pathlib.Path(KEPT[0]).write_text(screen + "\n")
        terminal.keys("C-d")
        terminal.wait("the end", lambda screen: "ended with 0" in screen, 30)
    finally:
        terminal.close()


def main():
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        store = folder / "store"
        (folder / "told.txt").write_text(FACT + "\n")
        cart(store, "pack", MODEL, "-t", "plain")
        cart(store, "memory", "import", "plain", folder / "told.txt", "--save", "told")
        chat(store, folder)
        assert FACT in cart(store, "memory", "show", "kept")
    print("the terminal: an answer out of memory, history, lines, Ctrl-C, undo, swap and save, key by key")


main()
