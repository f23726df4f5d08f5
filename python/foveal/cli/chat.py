"""foveal chat: a conversation. Ctrl-C stops the answer; at the prompt, twice ends the program."""

import argparse
import contextlib
import os
import select
import shlex
import sys
from typing import Any

from ..errors import ArgumentError, ContextFull, Error
from ..images import Pixels, to_pixels
from ..model import Model
from ..progress import Progress
from ..session import Session
from .setup import ProgressLine, describe_turn, image_paths, kv_options, load_model, note, open_session, sampling

HELP = """/image FILE  put a picture before the next message
/clear       forget the conversation
/stats       times, tokens/s and KV bytes of the last answer
/help        this text
/quit        end
A line that ends in \\ goes on; several pasted lines are one message. Ctrl-C stops an answer."""


class Conversation:
    def __init__(self, o: argparse.Namespace, model: Model, progress: Progress) -> None:
        self.o, self.model, self.progress = o, model, progress
        self.kv, self.options = kv_options(o), sampling(o)
        self.model.apply_template([{"role": "user", "content": ""}])  # an unknown template is an error now
        self.begin(open_session(o, model, self.kv))
        for path in image_paths(o):
            self.add_image(path)

    def clear(self) -> None:
        self.begin(self.model.session(self.kv, self.o.ctx_size or None))

    def begin(self, session: Session) -> None:
        self.session = session
        self.messages: list[dict[str, Any]] = []
        self.pending: list[Pixels] = []
        self.last = ""
        if self.o.system_prompt:
            self.messages.append({"role": "system", "content": self.o.system_prompt})

    def add_image(self, path: str) -> None:
        if not self.model.info["vision"]:
            raise ArgumentError("pictures need --mmproj FILE, the model's encoder")
        pixels = to_pixels(path)
        self.pending.append(pixels)
        note(f"{path}: {pixels.shape[1]} x {pixels.shape[0]}, goes with the next message")

    def ask(self, text: str) -> None:
        """One turn. When it fails, the message and its pictures are taken back."""
        self.messages.append({"role": "user", "content": text, "images": self.pending})
        self.pending = []
        try:
            with ProgressLine(self.progress):
                if self.o.session and self.session.n_tokens:  # it knows what was said, in earlier runs too
                    stream = self.session._next(self.messages[-1:], None, self.options)
                else:
                    stream = self.session._chat(self.messages, None, self.options)
        except KeyboardInterrupt:
            self.messages.pop()
            note("stopped; the message was taken back")
            return
        except Error as e:
            self.messages.pop()
            note(f"error: {e}")
            if isinstance(e, ContextFull):
                note("/clear starts anew; -c N makes the context larger")
            return
        try:
            for piece in stream:
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            stream.close()
        print(flush=True)
        self.messages.append({"role": "assistant", "content": stream.text})
        self.last = describe_turn(stream.stats)
        if stream.stats.note:
            note("note: " + stream.stats.note)
        if stream.stats.finish_reason == "context":
            note("note: the context is full; /clear starts anew")
        if self.o.stats:
            note(self.last)

    def end(self) -> int:
        if self.o.session:
            self.session.save(self.o.session)
        return 0

    def command(self, line: str) -> bool:
        """False when the conversation is over."""
        name, _, rest = line.partition(" ")
        if name in ("/quit", "/exit"):
            return False
        if name == "/clear":
            self.clear()
        elif name == "/stats":
            note(self.last or "no answer yet")
        elif name == "/image" and rest.strip():
            self.add_image(unquoted(rest.strip()))
        elif name in ("/help", "/image"):
            note(HELP)
        else:
            note(f"unknown: {name}\n{HELP}")
        return True


def unquoted(path: str) -> str:
    """A path as typed or dropped: quotes and escaped blanks removed."""
    if os.path.exists(path):
        return path
    with contextlib.suppress(ValueError):
        words = shlex.split(path)
        if len(words) == 1:
            return words[0]
    return path


def read_message() -> str:
    """A line, with those that a trailing backslash or a paste adds. EOFError at the end."""
    lines: list[str] = []
    more = True
    while more:
        try:
            line = input("> " if sys.stdin.isatty() and not lines else "")
        except EOFError:
            if lines:
                break
            raise
        more = line.endswith("\\") or (sys.stdin.isatty() and bool(select.select([sys.stdin], [], [], 0.03)[0]))
        lines.append(line.removesuffix("\\"))
    return "\n".join(lines)


def chat(o: argparse.Namespace) -> int:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (history and editing in input())
    model, progress = load_model(o)
    talk = Conversation(o, model, progress)
    if o.prompt:
        talk.ask(o.prompt)
    interrupted = False
    while True:
        try:
            line = read_message()
            interrupted = False
            if line.strip():
                if not line.startswith("/"):
                    talk.ask(line)
                elif not talk.command(line):
                    return talk.end()
        except EOFError:
            return talk.end()
        except KeyboardInterrupt:
            if interrupted:
                return 130
            interrupted = True
            note("\n(Ctrl-C again or /quit ends)")
        except Error as e:
            note(f"error: {e}")
