"""`foveal chat` on a terminal: Ctrl-C stops the answer, twice at the prompt ends it, a paste is one message."""

import os
import pty
import re
import select
import signal
import time

from goldens import DATA

MODEL = ["-m", str(DATA / "text_qwen3" / "model-f16.gguf"), "--chat-template", "chatml", "-t", "1"]


class Terminal:
    """A program on a pseudo-terminal of its own."""

    def __init__(self, command: list[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # background jobs inherit it ignored
            os.execvp(command[0], command)
        self.seen = ""

    def send(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, pattern: str, seconds: float = 60) -> str:
        """What came up to the pattern; it is then behind us."""
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self.seen)):
            if not select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"{pattern!r} did not come: {self.seen[-500:]!r}")
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # the program has ended
                data = b""
            if not data:
                raise AssertionError(f"ended before {pattern!r}: {self.seen[-500:]!r}")
            self.seen += data.decode("utf-8", "replace")
        before = self.seen[: match.start()]
        self.seen = self.seen[match.end() :]
        return before

    def interrupt(self, pattern: str) -> None:
        """Ctrl-C until the pattern comes: readline shows its prompt shortly before it waits for keys, and hears a
        signal from in between with the next one only."""
        for _ in range(5):
            time.sleep(0.3)
            self.send("\x03")
            try:
                self.expect(pattern, 10)
                return
            except AssertionError:
                continue
        raise AssertionError(f"{pattern!r} did not come: {self.seen[-500:]!r}")

    def status(self) -> int:
        while True:
            try:
                if not os.read(self.fd, 65536):
                    break
            except OSError:
                break
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.status()


def test_interrupts(cli: list[str]) -> None:
    terminal = Terminal([*cli, "chat", *MODEL, "-n", "-1", "-c", "100000"])
    try:
        terminal.expect("> ")
        terminal.send("hello there\n")  # this model never ends its answer
        terminal.expect("hello there\r\n")
        time.sleep(1.0)
        terminal.send("\x03")
        terminal.expect("> ")
        terminal.send("/stats\n")
        terminal.expect("ended by cancelled")
        terminal.expect("> ")
        terminal.interrupt("Ctrl-C again")
        time.sleep(0.3)
        terminal.send("\x03")
    except BaseException:
        terminal.kill()
        raise
    assert terminal.status() == 130


def test_paste_is_one_message(cli: list[str]) -> None:
    terminal = Terminal([*cli, "chat", *MODEL, "-n", "3", "--stats"])
    try:
        terminal.expect("> ")
        terminal.send("\x1b[200~first line\nsecond line\nthird\x1b[201~\n")
        terminal.expect("KV  ")
        terminal.expect("> ")
        terminal.send("/quit\n")
        rest = terminal.expect("quit")
        assert "KV  " not in rest
    except BaseException:
        terminal.kill()
        raise
    assert terminal.status() == 0
