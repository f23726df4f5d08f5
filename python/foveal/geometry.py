"""Between a model's coordinates and the original picture's pixels."""

from collections.abc import Sequence
from typing import Literal

from .errors import ArgumentError

Convention = Literal["pixels", "1000", "unit"]
# What a family's models were trained to write; the others' habits differ from model to model.
BY_PROJECTOR: dict[str, Convention] = {
    "qwen2vl_merger": "1000",
    "qwen2.5vl_merger": "pixels",
    "qwen3vl_merger": "1000",
    "internvl": "1000",
}


def to_original(
    value: Sequence[float], size: tuple[int, int], resized: tuple[int, int], convention: Convention
) -> tuple[float, ...]:
    """A point (x, y) or box (x0, y0, x1, y1) that a model wrote, in pixels of the original picture.

    size: the original's (width, height); resized: the picture's as the encoder saw it. convention: "pixels" of the
    resized picture (Qwen2.5-VL), "1000": thousandths of the sides (Qwen2-VL, Qwen3-VL, InternVL), "unit": shares of
    the sides. Held inside the picture."""
    if convention not in ("pixels", "1000", "unit"):
        raise ArgumentError(f"convention: found {convention!r:.40}, expected 'pixels', '1000' or 'unit'")
    if len(value) not in (2, 4):
        raise ArgumentError(f"found {len(value)} numbers, expected a point (x, y) or a box (x0, y0, x1, y1)")
    whole = {"pixels": resized, "1000": (1000, 1000), "unit": (1, 1)}[convention]
    out = []
    for i, v in enumerate(value):
        side = size[i % 2]
        out.append(min(max(float(v) * side / whole[i % 2], 0.0), float(side)))
    return tuple(out)
