"""foveal plan: what a conversation would take, from the files' headers."""

import argparse
import json
import re

from ..errors import ArgumentError
from ..plan import plan as make_plan
from .setup import kv_options


def sizes(texts: list[str]) -> list[tuple[int, int, int]]:
    """ "1920x1080" or "1920x1080x12": width, height, how many."""
    out: list[tuple[int, int, int]] = []
    for text in [word for value in texts for word in re.split(r"[\s,]+", value) if word]:
        numbers = re.fullmatch(r"(\d{1,6})x(\d{1,6})(?:x(\d{1,6}))?", text)
        if numbers:
            out.append((int(numbers[1]), int(numbers[2]), int(numbers[3] or 1)))
        else:
            raise ArgumentError(f"--image: found {text!r:.40}, expected WIDTHxHEIGHT or WIDTHxHEIGHTxHOWMANY")
    return out


def memory(text: str | None) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(KiB|MiB|GiB)", text)
    if not found:
        raise ArgumentError(f"--memory: found {text!r:.40}, expected a size such as 8GiB or 6000MiB")
    return max(1, int(float(found[1]) * {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[found[2]]))


def plan(o: argparse.Namespace) -> int:
    files = list(o.files)
    if len(files) > 2:
        raise ArgumentError(f"unexpected argument {files[2]!r:.60}")
    model, mmproj = o.model or (files.pop(0) if files else None), o.mmproj or (files.pop(0) if files else None)
    if not model:
        raise ArgumentError("plan needs a model: foveal plan MODEL.gguf [MMPROJ.gguf]")
    p = make_plan(
        model, mmproj, sizes(o.image), o.turns, kv_options(o), o.text_tokens, o.predict,
        o.image_min_tokens, o.image_max_tokens, memory(o.memory),
    )  # fmt: skip
    print(json.dumps(p) if o.output == "json" else p)
    return 0
