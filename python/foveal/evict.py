"""The choice of rows itself, on arrays: the same C++ code that a session runs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _foveal
from .check import MAX_INT32, integer, real
from .errors import ArgumentError
from .kv import Mix, Policy


def _floats(name: str, value: Any, ndim: int) -> NDArray[np.float32]:
    try:
        array = np.ascontiguousarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        raise ArgumentError(f"{name}: found {type(value).__name__}, expected a float32 array") from None
    if array.ndim != ndim:
        raise ArgumentError(f"{name}: found shape {array.shape}, expected {ndim} dimensions")
    return array


def select(
    K: Any,
    V: Any,
    Q_window: Any,
    budget: int = 64,
    policy: Policy = "snapkv",
    mix: Mix = "mixkv",
    window: int = 32,
    kernel: int = 5,
    il: int = 0,
    n_layer: int = 1,
    head_weight: Any = None,
    head_scores: Any = None,
    floor: float = 0.2,
    beta: float = 20,
    rho: float = 0.1,
    sinks: int = 0,
    seed: int = 0,
) -> list[NDArray[np.int32]]:
    """Rows of one layer that each KV head keeps, ascending.

    K, V: float32 [n_head_kv, N, head_dim], K after RoPE; Q_window: float32 [n_head, window, head_dim].
    budget: rows per head on average, window included. head_weight: [n_head_kv] in place of the online redundancy r;
    head_scores: [n_layer, n_head], SparseMM's table. floor, beta, rho: of AdaKV, PyramidKV, SparseMM.
    """
    k, v, q = _floats("K", K, 3), _floats("V", V, 3), _floats("Q_window", Q_window, 3)
    window = integer("window", window, 1, MAX_INT32)
    if k.shape != v.shape:
        raise ArgumentError(f"V: found shape {v.shape}, expected that of K, {k.shape}")
    if 0 in k.shape:
        raise ArgumentError(f"K: found shape {k.shape}, expected no empty dimension")
    if q.shape[0] == 0 or q.shape[0] % k.shape[0] != 0 or q.shape[1:] != (window, k.shape[2]):
        expected = f"[a multiple of {k.shape[0]}, {window}, {k.shape[2]}]"
        raise ArgumentError(f"Q_window: found shape {q.shape}, expected {expected}")
    for name, word in (("policy", policy), ("mix", mix)):
        if not isinstance(word, str):
            raise ArgumentError(f"{name}: found {word!r:.80}, expected a str")
    n_layer = integer("n_layer", n_layer, 1, MAX_INT32)
    weight = np.empty(0, np.float32) if head_weight is None else _floats("head_weight", head_weight, 1)
    scores = np.empty((0, 0), np.float32) if head_scores is None else _floats("head_scores", head_scores, 2)
    if head_weight is not None and weight.shape != (k.shape[0],):
        raise ArgumentError(f"head_weight: found shape {weight.shape}, expected ({k.shape[0]},)")
    if head_scores is not None and scores.shape != (n_layer, q.shape[0]):
        raise ArgumentError(f"head_scores: found shape {scores.shape}, expected ({n_layer}, {q.shape[0]})")
    return _foveal.evict_select(
        k,
        v,
        q,
        budget=integer("budget", budget, 1, 2**53),
        policy=policy,
        mix=mix,
        window=window,
        kernel=integer("kernel", kernel, 1, MAX_INT32),
        il=integer("il", il, 0, n_layer - 1),
        n_layer=n_layer,
        head_weight=weight,
        head_scores=scores.reshape(-1),
        floor=real("floor", floor),
        beta=real("beta", beta),
        rho=real("rho", rho),
        sinks=integer("sinks", sinks, 0, MAX_INT32),
        seed=integer("seed", seed, 0, 2**64 - 1),
    )
