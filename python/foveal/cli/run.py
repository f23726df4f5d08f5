"""foveal run: one prompt, one answer."""

import argparse
import sys
from typing import Any

from ..errors import ArgumentError, FileError
from ..images import to_pixels
from .setup import ProgressLine, describe_turn, image_paths, kv_options, load_model, note, open_session, sampling

MARK = "<__media__>"


def read_prompt(o: argparse.Namespace) -> str:
    if o.prompt and o.file:
        raise ArgumentError("--prompt and --file are both given; one of them is enough")
    if o.prompt:
        return str(o.prompt)
    if not o.file and sys.stdin.isatty():
        raise ArgumentError("run needs a prompt: -p TEXT, -f FILE or standard input")
    try:
        if not o.file or o.file == "-":
            data = sys.stdin.buffer.read((64 << 20) + 1)
        else:
            with open(o.file, "rb") as file:
                data = file.read((64 << 20) + 1)
    except OSError as e:
        raise FileError(f"{o.file}: {e.strerror}") from None
    if len(data) > 64 << 20:
        raise ArgumentError("the prompt has more than 64 MiB")
    return data.decode("utf-8", "surrogateescape").removesuffix("\n")


def raw_parts(prompt: str, images: list[Any]) -> list[Any]:
    """Text with <__media__> where pictures stand; pictures without a mark come first."""
    texts = prompt.split(MARK)
    if len(texts) == 1:
        return [*images, prompt]
    if len(texts) - 1 != len(images):
        raise ArgumentError(f"the prompt has {len(texts) - 1} marks {MARK}, but {len(images)} pictures were given")
    parts = [texts[0]]
    for image, text in zip(images, texts[1:], strict=True):
        parts += [image, text]
    return [p for p in parts if not isinstance(p, str) or p]


def write_page(path: str, body: str) -> None:
    page = f"<!doctype html><meta charset='utf-8'><title>What the KV cache kept</title>{body}\n"
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(page)
    except OSError as e:
        raise FileError(f"{path}: {e.strerror}") from None


def run(o: argparse.Namespace) -> int:
    if o.raw and (o.system_prompt or o.chat_template):
        raise ArgumentError("--raw takes neither --system-prompt nor --chat-template")
    prompt = read_prompt(o)
    images = [to_pixels(path) for path in image_paths(o)]
    kv, options = kv_options(o), sampling(o)
    model, progress = load_model(o)
    session = open_session(o, model, kv)
    with ProgressLine(progress):
        if o.raw:
            stream = session._generate(raw_parts(prompt, images), options)
        else:
            messages = [{"role": "system", "content": o.system_prompt}] if o.system_prompt else []
            messages.append({"role": "user", "content": prompt})
            stream = (session._next if session.n_tokens else session._chat)(messages, images, options)
    status = 0
    try:
        for piece in stream:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        stream.close()
        status = 130
    if stream.text and not stream.text.endswith("\n"):
        print(flush=True)
    if o.session:
        session.save(o.session)
    if o.kv_report:
        write_page(o.kv_report, stream.kv.to_html())
    if stream.stats.note:
        note("note: " + stream.stats.note)
    if stream.stats.finish_reason == "context":
        note("note: the context is full; -c N makes it larger, --kv-on-full evict with --kv-budget goes on")
    if o.stats:
        note(describe_turn(stream.stats))
    return status
