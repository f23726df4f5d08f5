"""The trust meter: one turn with the whole cache and with the budget, side by side."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import ArgumentError
from .kv import KV

if TYPE_CHECKING:
    from .session import Session


@dataclass(frozen=True)
class Comparison:
    """What a budget changes in one answer. Both caches read the same tokens: the whole cache's greedy answer.

    top1: share of the answer's tokens for which both would choose the same. mean_kl, max_kl: KL(whole || budget) of
    the next-token distributions, in nats. first_divergence: index in the answer of the first other choice, None when
    there is none. Bytes are those of the KV rows at the answer's end; ms the whole turn, prefill to last token.
    """

    text: str
    tokens: list[int]
    top1: float
    mean_kl: float
    max_kl: float
    first_divergence: int | None
    bytes_full: int
    bytes_kept: int
    ms_full: float
    ms_kept: float

    @property
    def bytes_saved(self) -> int:
        return self.bytes_full - self.bytes_kept

    @property
    def ms_saved(self) -> float:
        return self.ms_full - self.ms_kept

    def __str__(self) -> str:
        at = "none" if self.first_divergence is None else f"token {self.first_divergence}"
        return (
            f"{len(self.tokens)} tokens: top-1 {100 * self.top1:.1f} %, mean KL {self.mean_kl:.4f}, first divergence "
            f"{at}; KV {self.bytes_full} -> {self.bytes_kept} bytes; {self.ms_full:.0f} -> {self.ms_kept:.0f} ms"
        )


class _Side:
    """One of the two sessions, timed."""

    def __init__(self, session: "Session", kv: KV, question: str, images: Any) -> None:
        self.session = session._replay(kv)
        start = time.perf_counter()
        self.session._ask(question, images)
        self.seconds = time.perf_counter() - start

    def step(self, token: int) -> None:
        start = time.perf_counter()
        self.session.step(token)
        self.seconds += time.perf_counter() - start


def kl_divergence(p: NDArray[np.float32], q: NDArray[np.float32]) -> float:
    """KL(softmax(p) || softmax(q)) of two rows of logits, in nats."""

    def log_softmax(x: NDArray[np.float32]) -> NDArray[np.float64]:
        shifted = x.astype(np.float64) - float(x.max())
        result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
        return result

    a, b = log_softmax(p), log_softmax(q)
    return max(0.0, float((np.exp(a) * (a - b)).sum()))


def compare(session: "Session", question: str, images: Any, max_tokens: int, kv: KV | None) -> Comparison:
    kept = kv or session.kv
    if kept.budget is None and kept.dtype == "f16":
        raise ArgumentError("compare: found a session without a budget; pass kv=foveal.KV(budget=...)")
    full = _Side(session, KV(), question, images)
    less = _Side(session, kept, question, images)
    tokens: list[int] = []
    kl: list[float] = []
    same: list[bool] = []
    with full.session, less.session:
        while len(tokens) < max_tokens:
            p, q = full.session.logits, less.session.logits
            kl.append(kl_divergence(p, q))
            token = int(p.argmax())
            same.append(token == int(q.argmax()))
            if session.model.tokenizer.is_eog(token):
                break
            tokens.append(token)
            if full.session.pos >= full.session.n_ctx:
                break
            full.step(token)
            less.step(token)
        return Comparison(
            text=session.model.detokenize(tokens),
            tokens=tokens,
            top1=float(np.mean(same)),
            mean_kl=float(np.mean(kl)),
            max_kl=max(kl),
            first_divergence=None if all(same) else same.index(False),
            bytes_full=full.session.kv_bytes,
            bytes_kept=less.session.kv_bytes,
            ms_full=1000 * full.seconds,
            ms_kept=1000 * less.seconds,
        )
