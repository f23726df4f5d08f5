"""Conversations as OpenAI and Ollama clients write them, to the engine's messages and a list of pictures."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from .check import utf8
from .errors import ArgumentError
from .images import Pixels, data_uri, to_pixels

Part = bytes | int  # text as UTF-8 | index of a picture
NativeMessage = tuple[str, list[Part]]

ROLES = ("system", "user", "assistant")


def parse(messages: Any, images: Any = None, marks: bool = False) -> tuple[list[NativeMessage], list[Pixels]]:
    """Messages as (role, parts) and the pixels of their pictures, in order.

    A str is one user message. Content: str, or a list of {"type": "text", "text"}, {"type": "image", "image"},
    {"type": "image", "path"}, {"type": "image", "url": "data:..."}, {"type": "image_url", "image_url": {"url":
    "data:..."}}; {"type": "image"} alone takes the next of `images`, or with `marks` and no images only marks a place.
    A message's own "images" come before its text, and so do `images` in the last user message when no part asks for
    them.
    """
    parser = _Parser(_as_list(images, "images"), marks and images is None)
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or not messages:
        raise ArgumentError(f"messages: found {messages!r:.60}, expected a list of at least one message")
    parsed = [parser.message(f"messages[{i}]", m) for i, m in enumerate(messages)]
    parser.place_rest(parsed)
    return parsed, parser.pixels


def _as_list(images: Any, name: str) -> list[Any]:
    if images is None:
        return []
    if isinstance(images, list | tuple):
        return list(images)
    raise ArgumentError(f"{name}: found {type(images).__name__}, expected a list of pictures")


class _Parser:
    def __init__(self, images: list[Any], marks: bool) -> None:
        self.given = images
        self.marks, self.marked = marks, 0
        self.taken = 0
        self.pixels: list[Pixels] = []

    def add(self, image: Any, name: str) -> int:
        self.pixels.append(to_pixels(image, name))
        return len(self.pixels) - 1

    def take(self, name: str) -> int:
        if self.taken >= len(self.given):
            raise ArgumentError(f"{name}: asks for a picture, but images has only {len(self.given)}")
        self.taken += 1
        return self.add(self.given[self.taken - 1], f"images[{self.taken - 1}]")

    def message(self, name: str, message: Any) -> NativeMessage:
        if not isinstance(message, Mapping):
            raise ArgumentError(f"{name}: found {type(message).__name__}, expected a dict with role and content")
        role = message.get("role")
        if role not in ROLES:
            raise ArgumentError(f"{name}: found role {role!r:.60}, expected one of {', '.join(ROLES)}")
        empty = {
            key for key, value in message.items() if value is None or (isinstance(value, list | str) and not value)
        }
        unknown = set(message) - empty - {"role", "content", "images", "name"}  # clients dump the empty ones, too
        if unknown:
            raise ArgumentError(
                f"{name}: found key {sorted(map(str, unknown))[0]!r:.60}, expected role, content, images"
            )
        own = _as_list(message.get("images"), f"{name}.images")
        parts: list[Part] = [self.add(image, f"{name}.images[{i}]") for i, image in enumerate(own)]
        content = message.get("content")
        if isinstance(content, str):
            return role, [*parts, utf8(content, name)]
        if not isinstance(content, list | tuple):
            raise ArgumentError(f"{name}: found content {content!r:.60}, expected a str or a list of parts")
        return role, parts + [self.part(f"{name}.content[{i}]", p) for i, p in enumerate(content)]

    def part(self, name: str, part: Any) -> Part:
        if isinstance(part, str):
            return utf8(part, name)
        if not isinstance(part, Mapping):
            raise ArgumentError(f"{name}: found {type(part).__name__}, expected a dict with type")
        kind = part.get("type")
        if kind == "text":
            return utf8(part.get("text"), f"{name}.text")
        if kind == "image":
            return self.image(name, {k: part[k] for k in ("image", "path", "url") if part.get(k) is not None})
        if kind == "image_url":
            url = part.get("image_url")
            if isinstance(url, Mapping):
                url = url.get("url")
            if not isinstance(url, str):
                raise ArgumentError(f"{name}: found image_url {url!r:.60}, expected a data: URI")
            return self.add(data_uri(url, name), name)
        raise ArgumentError(f"{name}: found type {kind!r:.60}, expected text, image or image_url")

    def image(self, name: str, part: dict[Any, Any]) -> int:
        if not part:
            self.marked += self.marks
            return self.marked - 1 if self.marks else self.take(name)
        (key, value), *more = part.items()
        if more:
            raise ArgumentError(f"{name}: found {', '.join(part)}, expected one of them")
        if key == "path" and not isinstance(value, str | os.PathLike):
            raise ArgumentError(f"{name}: found path {value!r:.60}, expected a str or pathlib.Path")
        if key == "url" and not isinstance(value, str):
            raise ArgumentError(f"{name}: found url {value!r:.60}, expected a data: URI")
        return self.add(data_uri(value, name) if key == "url" else value, name)

    def place_rest(self, messages: list[NativeMessage]) -> None:
        """Pictures of `images` that no part asked for: all of them go before the last user message's text."""
        if self.taken == len(self.given):
            return
        if self.taken:
            raise ArgumentError(f"images: found {len(self.given)}, but the messages ask for {self.taken}")
        for role, parts in reversed(messages):
            if role == "user":
                parts[:0] = [self.take("images") for _ in self.given]
                return
        raise ArgumentError("images: there is no user message to put them in")
