"""Tables of one model, measured: which heads look at what an answer needs (SparseMM), how redundant keys are (MixKV).

A tables file is a GGUF with two F32 tensors, head_scores [n_head, n_layer] and head_weight [n_head_kv, n_layer]:
KV(tables=...), --kv-tables.
"""

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ArgumentError
from .kv import KV
from .model import Model
from .rawfile import STRING, TYPE_IDS, write

REMEMBERED = 64  # queries that a session holds back for measurements


@dataclass
class Tables:
    """head_scores float32 [n_layer, n_head]: mean share of attention that the queries which choose the answer's tokens
    give to the rows of the answer's region, above what even attention would give it (arXiv 2506.05344's idea).
    head_weight float32 [n_layer, n_head_kv]: mean pairwise cosine of a prompt's keys, MixKV's offline r.
    n_scored, n_items: items with a region, items in all. Layers with a sliding window score 0."""

    head_scores: NDArray[np.float32]
    head_weight: NDArray[np.float32]
    n_scored: int = 0
    n_items: int = 0
    about: dict[str, str] = field(default_factory=dict)

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Writes the tables file; what was there is replaced whole. FileError when it can't be written."""
        save_tables(path, self)


class Calibration:
    """Collects measurements item by item. Model: any that loads; layers with a sliding window are left out."""

    def __init__(self, model: Model) -> None:
        self.model, i = model, model.info
        self._layers = [il for il in range(i["n_layer"]) if not i["sliding_window"][il]]
        if not self._layers:
            raise ArgumentError(
                "calibrate: found a model without a layer that sees everything, nothing is evicted there"
            )
        self._scores = np.zeros((i["n_layer"], i["n_head"]))
        self._r = np.zeros((i["n_layer"], i["n_head_kv"]))
        self.n_scored = self.n_items = 0

    def add(self, parts: list[Any], answer: str, box: Any = None) -> None:
        """parts: the prompt as prefill() takes it, its last picture being the one asked about; answer: what is said
        next; box: x0, y0, x1, y1 in that picture's pixels (None: only r is measured)."""
        tokens = self.model.tokenize(answer, False)[: REMEMBERED - 1]
        with self.model.session(KV(dtype="f32")) as session:
            session.prefill(parts)
            n = session.n_tokens
            for il in self._layers:
                self._r[il] += [_redundancy(k) for k in session.kv_arrays(il)[0]]
            self.n_items += 1
            rows = None if box is None or not tokens else _rows_in(session, box)
            if rows is None or len(rows) == 0:
                return
            for token in tokens[:-1]:  # the query that chooses a token stands one before it
                session.step(token)
            even = len(rows) / n
            for il in self._layers:
                for ih, attention in enumerate(session.attention(il, len(tokens))):
                    share = float(attention[:, rows].sum(1).mean())
                    self._scores[il, ih] += max(0.0, share - even)
            self.n_scored += 1

    def tables(self) -> Tables:
        """The means so far. ArgumentError when no item had a region that rows look at."""
        if self.n_scored == 0:
            raise ArgumentError(f"calibrate: found no answer region in {self.n_items} items, expected items with a box")
        scores, r = self._scores / self.n_scored, self._r / self.n_items
        if not scores.any():
            scores[self._layers] = 1.0  # no head looks there more than evenly: all the same
        return Tables(scores.astype(np.float32), r.astype(np.float32), self.n_scored, self.n_items)


def calibrate(model: Model, items: Iterable[tuple[list[Any], str, Any]]) -> Tables:
    """Tables of a model from (parts, answer, box) of each item, as in Calibration.add."""
    calibration = Calibration(model)
    for parts, answer, box in items:
        calibration.add(parts, answer, box)
    return calibration.tables()


def save_tables(path: "str | os.PathLike[str]", tables: Tables) -> None:
    """The GGUF of a table; `about` becomes keys foveal.tables.*."""
    texts = {"general.architecture": "foveal-tables", **{f"foveal.tables.{k}": v for k, v in tables.about.items()}}
    arrays = {"head_scores": tables.head_scores, "head_weight": tables.head_weight}
    keys = {k.encode(): (STRING, struct.pack("<Q", len(v.encode())) + v.encode()) for k, v in texts.items()}
    tensors = [(name, a.shape[::-1], TYPE_IDS["F32"], 4 * a.size) for name, a in arrays.items()]
    pieces = [np.ascontiguousarray(a, np.float32).reshape(-1) for a in arrays.values()]
    write(path, keys, tensors, [p for piece in pieces for p in (piece, piece[:0])])


def _redundancy(keys: NDArray[np.float32]) -> float:
    """Mean cosine of the pairs of different rows: (N |m|^2 - 1) / (N - 1) with m the mean unit key."""
    n = len(keys)
    if n < 2:
        return 0.0
    unit = keys / np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), 1e-12)
    m = unit.mean(0, dtype=np.float64)
    return float(np.clip((n * (m @ m) - 1) / (n - 1), 0, 1))


def _rows_in(session: Any, box: Any) -> NDArray[np.int64] | None:
    """Rows of the session's last picture whose region meets the box."""
    images = session._native.images()
    if not images:
        return None
    x0, y0, x1, y1 = box
    b = images[-1]["boxes"]
    meets = (b[:, 0] < x1) & (b[:, 2] > x0) & (b[:, 1] < y1) & (b[:, 3] > y0)
    return np.asarray(images[-1]["rows"][meets], np.int64)
