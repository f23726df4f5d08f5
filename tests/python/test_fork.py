"""Copies of a session: whole, evicted later, or never holding what goes."""

from typing import Literal

import numpy as np
import pytest

import foveal
from goldens import Case, load

MAIN = Case("qwen2vl", "")
LONG = Case("text_llama", "long")


def test_prefill_evict_equals_evict_later() -> None:
    kv = foveal.KV(budget=48, window=16)
    model = load("text_llama")
    whole, at_once = model.session(), model.session(kv)
    whole.prefill(LONG.parts())
    at_once.prefill(LONG.parts())
    later = whole.fork()
    stats = later.evict(kv)
    assert stats.rows_max <= whole.n_tokens
    for il in range(model.info["n_layer"]):
        assert [k.tolist() for k in later.kept(il)] == [k.tolist() for k in at_once.kept(il)]
        assert all(len(k) == whole.n_tokens for k in whole.kept(il))  # the fork's eviction left it alone


@pytest.mark.parametrize("name", ["text_qwen2", "text_gemma3_text"])  # two KV heads; sliding windows, which stay whole
@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
def test_fork_with_options_is_fork_and_evict(name: str, dtype: Literal["f16", "q8_0"]) -> None:
    kv, model = foveal.KV(budget=48, window=16), load(name)
    whole = model.session(foveal.KV(dtype=dtype))
    whole.prefill(Case(name, "long").parts())
    slow, fast = whole.fork(), whole.fork(kv)
    assert slow.evict(kv).rows_mean == fast.kv_stats().rows_mean < whole.n_tokens
    assert fast.kv_peak_bytes < whole.kv_bytes
    for token in (5, 7):
        for il in range(model.info["n_layer"]):
            (k, v), (other_k, other_v) = slow.kv_arrays(il), fast.kv_arrays(il)
            for a, b in zip([*slow.kept(il), *k, *v], [*fast.kept(il), *other_k, *other_v], strict=True):
                assert np.array_equal(a, b)
        assert np.array_equal(slow.logits, fast.logits)
        slow.step(token)
        fast.step(token)
    assert whole.fork(foveal.KV()).kv_bytes == whole.kv_bytes
    with pytest.raises(foveal.ArgumentError, match="kv: found int, expected"):
        whole.fork(48)  # type: ignore[arg-type]
    with pytest.raises(foveal.ArgumentError, match="kv budget: found 3 rows"):
        whole.fork(foveal.KV(budget=3))
    with pytest.raises(foveal.StateError, match="no rows yet"):
        model.session().fork(kv)


def test_fork_is_independent() -> None:
    session = load("qwen2vl").session()
    session.prefill(MAIN.parts())
    fork = session.fork()
    before = session.logits
    fork.step(5)
    assert session.n_tokens + 1 == fork.n_tokens
    assert np.array_equal(session.logits, before)
    session.step(5)
    assert np.array_equal(session.logits, fork.logits)
