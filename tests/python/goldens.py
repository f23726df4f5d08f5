"""The tiny models of tests/data and what the original implementation computes on them."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import foveal

DATA = Path(__file__).resolve().parent.parent / "data"
MARK = "<__media__>"


@dataclass(frozen=True)
class Case:
    """One golden: a family's folder and the name of a prompt."""

    family: str
    name: str  # "" is the main one

    def __str__(self) -> str:
        return f"{self.family}-{self.name or 'main'}"

    def _file(self, suffix: str) -> Path:
        return DATA / self.family / f"golden{'_' + self.name if self.name else ''}.{suffix}"

    @property
    def text(self) -> dict[str, Any]:
        return json.loads(self._file("json").read_text())

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self._file("npz")) as arrays:
            return dict(arrays)

    @property
    def images(self) -> list[Path]:
        return [DATA / self.family / name for name in self.text["images"]]

    def parts(self) -> list[Any]:
        """The prompt as prefill() takes it: text, pictures where the marks stand."""
        texts = self.text["prompt"].split(MARK)
        parts: list[Any] = [texts[0]]
        for image, text in zip(self.images, texts[1:], strict=True):
            parts += [image, text]
        return [p for p in parts if p != ""]


CASES = sorted(
    (Case(p.parent.name, p.stem.removeprefix("golden").removeprefix("_")) for p in DATA.glob("*/golden*.json")),
    key=str,
)
PICTURES = [c for c in CASES if c.text["images"]]


@functools.lru_cache(maxsize=4)
def load(family: str, file_type: str = "f16", threads: int = 2, **options: Any) -> foveal.Model:
    """The model of a family; the last few stay loaded."""
    folder = DATA / family
    mmproj = folder / "mmproj-f16.gguf"
    return foveal.Model(
        folder / f"model-{file_type}.gguf", mmproj=mmproj if mmproj.exists() else None, threads=threads, **options
    )


def exact() -> foveal.KV:
    """Everything kept, in float32."""
    return foveal.KV(dtype="f32")


def greedy(session: foveal.Session, n: int) -> tuple[list[int], np.ndarray]:
    """n greedy tokens and the logits that gave each, [n, n_vocab]."""
    tokens, rows = [], []
    for _ in range(n):
        rows.append(session.logits)
        tokens.append(int(rows[-1].argmax()))
        session.step(tokens[-1])
    return tokens, np.stack(rows)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """|found - expected| / |expected|."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def interleaved(k: np.ndarray) -> np.ndarray:
    """K in half-split order as files of architecture llama hold it: (x_i, x_{i + d/2}) side by side."""
    half = k.shape[-1] // 2
    return np.stack([k[..., :half], k[..., half:]], axis=-1).reshape(k.shape)


def planar(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The original's pixel_values as pictures or tiles [3, height, width], in its order."""
    pixels = arrays["pixel_values"]
    if "image_grid_thw" not in arrays:
        return list(pixels.reshape(-1, *pixels.shape[-3:]))
    pictures = []
    at = 0
    for t, h, w in arrays["image_grid_thw"]:
        rows = pixels[at : at + t * h * w]
        at += t * h * w
        side = int(np.sqrt(rows.shape[1] // 6))
        # rows (h/2, w/2, 2, 2), columns (channel, frame, y, x); a still fills both frames
        blocks = rows.reshape(h // 2, w // 2, 2, 2, 3, 2, side, side)[:, :, :, :, :, 0]
        pictures.append(blocks.transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, h * side, w * side))
    return pictures
