"""A file's own chat template, rendered only when asked for, in Jinja2's immutable sandbox.

What users write never reaches the template: it sees random marks in its place. So text can't become a control token,
whatever the template does with it.
"""

import json
import re
import secrets
import time
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import ArgumentError, UnsupportedError
from .messages import NativeMessage

MAX_TEMPLATE = 1 << 20

TrustedText = tuple[bytes, bool]  # text, whether control tokens in it are parsed
PromptPart = TrustedText | int  # | index of a picture
# What templates write for a picture; the family's own wrapping comes with the picture's rows.
PLACE = re.compile(
    r"<\|vision_start\|>(?:<\|image_pad\|>)?<\|vision_end\|>|<\|image_pad\|>|<image>|<IMG_CONTEXT>|<start_of_image>"
)
GUARD = "\v"  # beside a mark: no template writes it, every trim takes it


def render(template: str, messages: list[NativeMessage], bos: str, eos: str) -> list[PromptPart]:
    """The prompt as parts: the template's text (control tokens parsed), the messages' own text (not), pictures."""
    if not template:
        raise UnsupportedError("chat_template 'jinja': the file has no tokenizer.chat_template")
    if len(template) > MAX_TEMPLATE:
        raise UnsupportedError(
            f"chat_template 'jinja': the template has {len(template)} characters, at most 1 MiB is run"
        )
    compiled = _compile(template)
    problem = ""
    pictures = any(isinstance(part, int) for _, parts in messages for part in parts)
    # Some templates know only str content, some only lists of parts; pictures are best placed by the template itself.
    for as_list, placed in [(True, True)] * pictures + [(False, False), (True, False)]:
        marks = _Marks(messages, placed)
        try:
            text = compiled.render(
                messages=marks.conversation(as_list),
                tools=None,
                documents=None,
                add_generation_prompt=messages[-1][0] != "assistant",
                bos_token=bos,
                eos_token=eos,
            )
        except jinja2.TemplateError as e:
            problem = str(e)
        except Exception as e:  # a template can raise whatever its filters raise
            problem = f"{type(e).__name__}: {e}"
        else:
            missing = marks.missing(text)
            if not missing and (parts := marks.split(text)) is not None:
                return parts
            problem = problem or (f"it leaves out the content of message {missing[0]}" if missing else "")
    raise UnsupportedError(f"chat_template 'jinja': the file's template fails on this conversation: {problem:.200}")


def _compile(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: time.strftime(form)
    try:
        return environment.from_string(template)
    except (jinja2.TemplateError, RecursionError) as e:
        raise UnsupportedError(f"chat_template 'jinja': the file's template is no valid Jinja: {e!s:.200}") from None


def _raise_exception(message: str) -> None:
    raise ArgumentError(f"chat template: {message!s:.200}")


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


class _Generation(Extension):
    """{% generation %} marks answers for training: its body alone counts."""

    tags = {"generation"}  # noqa: RUF012 (as the base class has it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Marks:
    """Marks in place of contents: guards around random hex. Templates that trim remove the guards, and so do we.
    placed: pictures get no mark, the template writes its own place for each."""

    def __init__(self, messages: list[NativeMessage], placed: bool) -> None:
        self.messages = messages
        self.placed = [p for _, parts in messages for p in parts if isinstance(p, int)] if placed else []
        self.key = secrets.token_hex(16)
        self.values: list[tuple[int, bytes | int]] = []  # mark -> message, text or picture

    def mark(self, message: int, value: bytes | int) -> str:
        self.values.append((message, value))
        mark = f"{self.key}x{len(self.values) - 1:08d}"
        return mark if isinstance(value, int) else GUARD + mark + GUARD

    def conversation(self, as_list: bool) -> list[dict[str, Any]]:
        rendered: list[dict[str, Any]] = []
        for i, (role, parts) in enumerate(self.messages):
            content: list[dict[str, str]] = []
            for part in parts:
                if self.placed and isinstance(part, int):
                    content.append({"type": "image"})
                elif part != b"":
                    content.append({"type": "text", "text": self.mark(i, part)})
            rendered.append({"role": role, "content": content if as_list else "".join(c["text"] for c in content)})
        return rendered

    def missing(self, text: str) -> list[int]:
        found = {int(n) for n in re.findall(self.key + "x([0-9]{8})", text)}
        return [message for i, (message, _) in enumerate(self.values) if i not in found]

    def split(self, text: str) -> list[PromptPart] | None:
        """None where the template's places for pictures aren't as many as the pictures."""
        parts: list[PromptPart] = []
        left = list(self.placed)
        at = 0

        def add(piece: str) -> None:
            parts.extend([(piece.encode(), True)] if piece else [])

        def own(piece: str) -> bool:
            """The template's text, pictures in their places; False when there are no more pictures."""
            start, before = 0, ""
            for place in PLACE.finditer(piece) if self.placed else ():
                if not left:
                    return False
                around = "\n\n" if place[0] == "<start_of_image>" else ""  # as Gemma's processor has it
                add(before + piece[start : place.start()] + around)
                parts.append(left.pop(0))
                start, before = place.end(), around
            add(before + piece[start:])
            return True

        for match in re.finditer(self.key + "x([0-9]{8})", text):
            value = self.values[int(match[1])][1]
            start, end = match.span()
            part: PromptPart
            if isinstance(value, int):
                part = value
            else:
                trimmed_left = start == at or text[start - 1] != GUARD
                trimmed_right = text[end : end + 1] != GUARD
                start, end = start - (not trimmed_left), end + (not trimmed_right)
                words = value.decode("utf-8", "surrogateescape")
                words = words.lstrip() if trimmed_left else words
                words = words.rstrip() if trimmed_right else words
                part = (words.encode("utf-8", "surrogateescape"), False)
            if not own(text[at:start]):
                return None
            parts.append(part)
            at = end
        return parts if own(text[at:]) and not left else None
