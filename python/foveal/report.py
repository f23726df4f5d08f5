"""What the KV cache kept of a turn: maps over the pictures in their pixels, shares of the text, one page to look at."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import _foveal
from .errors import ArgumentError
from .images import Pixels
from .reply import Stats

if TYPE_CHECKING:
    from .model import Model

Map = NDArray[np.float32]


@dataclass(frozen=True)
class SeenImage:
    """A picture of the session: token indices of its rows, each one's region of the original (x0, y0, x1, y1)."""

    rows: NDArray[np.int32]
    boxes: NDArray[np.float32]
    size: tuple[int, int]
    resized: tuple[int, int]
    pixels: Pixels | None


class KvReport:
    """Taken when a turn ends (`reply.kv`) or of a session now (`session.kv_report()`)."""

    def __init__(self, native: _foveal.Session, model: "Model", pixels: Sequence[Pixels | None]) -> None:
        self.stats = Stats(native.kv_stats())
        self.tokens: list[int] = native.tokens()
        self._model = model
        self._kept = [native.kept(il) for il in range(model.info["n_layer"])]
        self._evictable = [il for il, rows in enumerate(model.info["sliding_window"]) if rows == 0]
        self.images = []
        for i, image in enumerate(native.images()):
            size = image["size"]
            known = pixels[i] if i < len(pixels) else None
            if known is not None and known.shape[:2] != (size[1], size[0]):
                known = None
            self.images.append(SeenImage(image["rows"], image["boxes"], size, image["resized"], known))

    def shares(self, il: int | None = None, ih: int | None = None) -> Map:
        """float32 [n_tokens]: the share of the heads that still hold each row; of one layer, one head, or of all
        layers that are ever evicted."""
        layers = self._evictable if il is None else [self._in("il", il, len(self._kept))]
        n_head = len(self._kept[0])
        heads = range(n_head) if ih is None else [self._in("ih", ih, n_head)]
        held = np.zeros(len(self.tokens), np.float32)
        for layer in layers:
            for head in heads:
                held[self._kept[layer][head]] += 1
        held /= np.float32(max(1, len(layers) * len(heads)))
        return held

    def heatmap(self, image_index: int = 0, il: int | None = None, ih: int | None = None) -> Map:
        """float32 [height, width] of the original picture: the share of heads that hold what was seen there, the mean
        where several rows cover a pixel (tiles and overview). NaN where no row looks."""
        image = self.images[self._in("image_index", image_index, len(self.images))]
        shares = self.shares(il, ih)[image.rows]
        width, height = image.size
        total, count = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
        for share, (x0, y0, x1, y1) in zip(shares, np.rint(image.boxes).astype(int), strict=True):
            total[y0:y1, x0:x1] += share
            count[y0:y1, x0:x1] += 1
        with np.errstate(invalid="ignore"):
            return total / count

    def image_share(self, image_index: int = 0) -> float:
        """Mean share of a picture's rows that are held."""
        image = self.images[self._in("image_index", image_index, len(self.images))]
        return float(self.shares()[image.rows].mean())

    def text_shares(self) -> list[tuple[int, str, float]]:
        """(token index, text, share held) of every text row."""
        shares = self.shares()
        detokenize = self._model.detokenize
        return [(i, detokenize([t]), float(shares[i])) for i, t in enumerate(self.tokens) if t >= 0]

    def overlay(self, image_index: int = 0, il: int | None = None, ih: int | None = None) -> bytes:
        """PNG: the picture, dark where little was kept; plain white instead of a picture that isn't at hand."""
        image = self.images[self._in("image_index", image_index, len(self.images))]
        heat = np.nan_to_num(self.heatmap(image_index, il, ih))
        base = image.pixels if image.pixels is not None else np.full((*heat.shape, 3), 255, np.uint8)
        top = max(float(heat.max()), 1e-6)
        light = (0.15 + 0.85 * heat / top)[:, :, None]
        tint = np.array([255, 140, 0], np.float32) * (0.35 * heat / top)[:, :, None]
        mixed = np.clip(base * light * 0.75 + tint + base * 0.1, 0, 255).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(mixed).save(out, "PNG")
        return out.getvalue()

    def to_html(self) -> str:
        """A page by itself: statistics, pictures with their maps, the text shaded by what was kept."""
        s = self.stats
        budget = "none" if s.budget_rows < 0 else f"{s.budget_rows} rows per head on average"
        facts = {
            "budget": budget,
            "rows per head": f"{s.rows_min} to {s.rows_max}, mean {s.rows_mean:.1f} of {len(self.tokens)}",
            "bytes": f"{s.bytes:,} held, {s.bytes_without_eviction:,} without eviction, peak {s.bytes_peak:,}",
        }
        mass = np.array(s.kept_mass, np.float32)
        mass = mass[np.isfinite(mass)]
        if mass.size:
            facts["coverage"] = (
                f"{100 * mass.mean():.1f} % of the last queries' attention, {100 * mass.min():.1f} % least"
            )
        table = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in facts.items())
        pictures = "".join(
            f"<figure><img src='data:image/png;base64,{base64.b64encode(self.overlay(i)).decode()}' "
            f"style='max-width:100%'><figcaption>picture {i}: {image.size[0]} x {image.size[1]}, {len(image.rows)} rows"
            f", {100 * self.image_share(i):.1f} % held</figcaption></figure>"
            for i, image in enumerate(self.images)
        )
        words = "".join(
            f"<span title='row {i}: {share:.2f}' style='background:rgba(255,140,0,{share:.2f})'>"
            f"{html.escape(text)}</span>"
            for i, text, share in self.text_shares()
        )
        style = "<style>th{text-align:left;padding-right:1em}pre{white-space:pre-wrap}</style>"
        return f"<div>{style}<table>{table}</table>{pictures}<pre>{words}</pre></div>"

    _repr_html_ = to_html

    @staticmethod
    def _in(name: str, value: Any, n: int) -> int:
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 0 <= value < n:
            raise ArgumentError(f"{name}: found {value!r:.40}, expected 0 to {n - 1}")
        return int(value)
