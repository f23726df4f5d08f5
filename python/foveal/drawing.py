"""A picture and its heat map as text for a terminal: coloured half blocks, or plain ASCII."""

import os
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .images import Pixels

RAMP = " .:-=+*#%@"
HOT = np.array([255, 140, 0], np.float32)


def wants_colour(stream: TextIO) -> bool:
    """Colour only where somebody looks and has not said no (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _shrunk(map_: NDArray[np.float32], columns: int, rows: int) -> NDArray[np.float32]:
    """Means over a grid of cells."""
    image = Image.fromarray(np.nan_to_num(map_).astype(np.float32), mode="F")
    return np.asarray(image.resize((columns, rows), Image.Resampling.BOX), np.float32)


def draw(pixels: Pixels, heat: NDArray[np.float32], columns: int, colour: bool) -> str:
    """The picture [height, width, 3], bright and tinted where the map [height, width] is high, dark elsewhere;
    `columns` characters wide. Without colour the map alone, a character from ' ' (nothing) to '@' (the most)."""
    height, width = heat.shape
    columns = max(1, columns)
    lines = max(1, min(round(columns * height / width / 2), 2 * columns))  # a very tall picture is pressed together
    if not colour:
        cells = _shrunk(heat, columns, lines)
        steps = (cells / max(float(cells.max()), 1e-6) * (len(RAMP) - 1)).round().astype(int)
        return "\n".join("".join(RAMP[i] for i in row).rstrip() for row in steps)
    small = Image.fromarray(pixels).resize((columns, 2 * lines), Image.Resampling.BOX)
    base = np.asarray(small, np.float32)
    glow = _shrunk(heat, columns, 2 * lines)
    glow = (glow / max(float(glow.max()), 1e-6))[:, :, None]
    shown = np.clip(base * (0.2 + 0.5 * glow) + HOT * (0.45 * glow), 0, 255).astype(int)
    out = []
    for y in range(0, 2 * lines, 2):
        blocks = (
            f"\033[38;2;{a[0]};{a[1]};{a[2]};48;2;{b[0]};{b[1]};{b[2]}m▀"
            for a, b in zip(shown[y], shown[y + 1], strict=True)
        )
        out.append("".join(blocks) + "\033[0m")
    return "\n".join(out)
