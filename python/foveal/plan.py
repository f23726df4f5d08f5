"""What a conversation would take, before anything is loaded."""

import os
from collections.abc import Iterable
from typing import Any

from . import _foveal
from .check import MAX_INT32, integer, path_bytes
from .errors import ArgumentError
from .kv import KV
from .reply import Stats


class Plan(Stats):
    """rows_per_image; turns: per turn image_rows, rows, kv_bytes, kv_bytes_full, prefill_peak; text_weights,
    vision_weights, encoder_scratch, prefill_scratch, embedding_cache, fixed, total, memory in bytes; fits; advice: the
    flags that would make it fit. `str()` is a table."""

    def __str__(self) -> str:
        def mib(n: int) -> str:
            return f"{n / (1 << 20):.1f} MiB"

        lines = [f"rows per picture: {', '.join(map(str, self.rows_per_image)) or 'none'}"]
        lines += [
            "",
            "| turn | rows | KV held | without eviction | KV peak in prefill |",
            "| ---: | ---: | ---: | ---: | ---: |",
        ]
        for i, t in enumerate(self.turns):
            kv, full, peak = mib(t["kv_bytes"]), mib(t["kv_bytes_full"]), mib(t["prefill_peak"])
            lines.append(f"| {i + 1} | {t['rows']} | {kv} | {full} | {peak} |")
        lines += [
            "",
            f"weights         {mib(self.text_weights)} text, {mib(self.vision_weights)} encoder",
            f"encoder scratch {mib(self.encoder_scratch)}; embedding cache {mib(self.embedding_cache)}",
            f"prefill scratch {mib(self.prefill_scratch)}; fixed a session {mib(self.fixed)}",
            f"total           {mib(self.total)} at the peak, {mib(self.memory)} to fit in: "
            + ("fits" if self.fits else f"does not fit; what would: {self.advice}"),
        ]
        return "\n".join(lines)


def plan(
    model: str | os.PathLike[str],
    mmproj: str | os.PathLike[str] | None = None,
    images: Iterable[tuple[int, ...]] = (),
    turns: int = 1,
    kv: KV | None = None,
    text_tokens: int = 64,
    reply_tokens: int = 256,
    image_min_tokens: int | None = None,
    image_max_tokens: int | None = None,
    memory: int | None = None,
) -> Plan:
    """Reads headers only. images: (width, height) or (width, height, how many), dealt to the turns as evenly as can be;
    text_tokens, reply_tokens: of every turn; memory: bytes to fit in, None for what the system has available."""
    pictures = []
    for i, image in enumerate(images):
        if not hasattr(image, "__len__") or not 2 <= len(image) <= 3:
            raise ArgumentError(
                f"images[{i}]: found {image!r:.60}, expected (width, height) or (width, height, how many)"
            )
        numbers = [integer(f"images[{i}]", v, 1, MAX_INT32) for v in image]
        pictures.append((numbers[0], numbers[1], numbers[2] if len(numbers) == 3 else 1))
    values: dict[str, Any] = _foveal.plan(
        model=path_bytes("model", model),
        mmproj=b"" if mmproj is None else path_bytes("mmproj", mmproj),
        images=pictures,
        turns=integer("turns", turns, 1, 100000),
        text_tokens=integer("text_tokens", text_tokens, 1, 1 << 24),
        reply_tokens=integer("reply_tokens", reply_tokens, 0, 1 << 24),
        image_min_tokens=0 if image_min_tokens is None else integer("image_min_tokens", image_min_tokens, 1, MAX_INT32),
        image_max_tokens=0 if image_max_tokens is None else integer("image_max_tokens", image_max_tokens, 1, MAX_INT32),
        kv=(kv or KV())._native,
        memory=0 if memory is None else integer("memory", memory, 1, 2**63 - 1),
    )
    return Plan(values)
