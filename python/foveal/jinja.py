"""A file's own chat template, rendered only when asked for, in Jinja2's immutable sandbox.

What users write never reaches the template: it sees random marks in its place. So text can't become a control token,
whatever the template does with it.
"""

import re
import secrets
import time
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import ArgumentError, UnsupportedError
from .messages import NativeMessage

MAX_TEMPLATE = 1 << 20

TrustedText = tuple[bytes, bool]  # text, whether control tokens in it are parsed
PromptPart = TrustedText | int  # | index of a picture


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
    for as_list in (False, True):  # some templates know only str content, some only lists of parts
        marks = _Marks(messages)
        try:
            text = compiled.render(
                messages=marks.conversation(as_list),
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
            if not missing:
                return marks.split(text)
            problem = problem or f"it leaves out the content of message {missing[0]}"
    raise UnsupportedError(f"chat_template 'jinja': the file's template fails on this conversation: {problem:.200}")


def _compile(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: time.strftime(form)
    try:
        return environment.from_string(template)
    except (jinja2.TemplateError, RecursionError) as e:
        raise UnsupportedError(f"chat_template 'jinja': the file's template is no valid Jinja: {e!s:.200}") from None


def _raise_exception(message: str) -> None:
    raise ArgumentError(f"chat template: {message!s:.200}")


class _Marks:
    """Marks in place of contents: a space, random hex, a space. Templates that trim remove the spaces, and so do we."""

    def __init__(self, messages: list[NativeMessage]) -> None:
        self.messages = messages
        self.key = secrets.token_hex(16)
        self.values: list[tuple[int, bytes | int]] = []  # mark -> message, text or picture

    def mark(self, message: int, value: bytes | int) -> str:
        self.values.append((message, value))
        mark = f"{self.key}x{len(self.values) - 1:08d}"
        return mark if isinstance(value, int) else f" {mark} "

    def conversation(self, as_list: bool) -> list[dict[str, Any]]:
        rendered: list[dict[str, Any]] = []
        for i, (role, parts) in enumerate(self.messages):
            marks = [self.mark(i, p) for p in parts if p != b""]
            content = [{"type": "text", "text": m} for m in marks] if as_list else "".join(marks)
            rendered.append({"role": role, "content": content})
        return rendered

    def missing(self, text: str) -> list[int]:
        found = {int(n) for n in re.findall(self.key + "x([0-9]{8})", text)}
        return [message for i, (message, _) in enumerate(self.values) if i not in found]

    def split(self, text: str) -> list[PromptPart]:
        parts: list[PromptPart] = []
        at = 0
        for match in re.finditer(self.key + "x([0-9]{8})", text):
            value = self.values[int(match[1])][1]
            start, end = match.span()
            part: PromptPart
            if isinstance(value, int):
                part = value
            else:
                trimmed_left = start == at or text[start - 1] != " "
                trimmed_right = text[end : end + 1] != " "
                start, end = start - (not trimmed_left), end + (not trimmed_right)
                value = value.lstrip() if trimmed_left else value
                part = (value.rstrip() if trimmed_right else value, False)
            if start > at:
                parts.append((text[at:start].encode(), True))
            parts.append(part)
            at = end
        if at < len(text):
            parts.append((text[at:].encode(), True))
        return parts
