"""Kept rows of every policy and mix against those of the published code, and what select promises beside."""

import json
from pathlib import Path

import numpy as np
import pytest

import foveal

DATA = Path(__file__).parents[1] / "data" / "eviction"
CASES = json.loads((DATA / "cases.json").read_text())
MIXES = {"attn": "none", "vnorm": "vnorm", "keydiff": "keydiff", "mixkv": "fixed", "headwisemixkv": "mixkv"}


def inputs(case):
    arrays = np.load(DATA / case["inputs"])
    return arrays["K"], arrays["V"], arrays["Qwin"]


def name(case):
    return f"{case['base']}-{case['method']}-N{case['N']}-L{case['layer']}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_kept_rows_equal_the_published_code(case):
    kept = foveal.evict.select(
        *inputs(case),
        budget=case["budget"],
        policy=case["base"],
        mix=MIXES[case["method"]],
        window=case["window"],
        kernel=case["kernel"],
        il=case["layer"],
        n_layer=case["layers"],
        head_weight=case["head_weight"],
        head_scores=case.get("head_scores_all_layers"),
        floor=case.get("floor", 0.2),
        beta=case.get("pyramid_beta", 20),
        rho=case.get("ratio", 0.1),
    )
    assert [len(rows) for rows in kept] == case["keep_lengths"]
    assert [rows.tolist() for rows in kept] == case["keep"]


def test_all_cases_are_there():
    assert len(CASES) == 80
    assert {(c["base"], c["method"]) for c in CASES} == {
        (base, mix) for base in ("snapkv", "pyramidkv", "adakv", "sparsemm") for mix in MIXES
    }


def test_online_redundancy_is_the_mean_pairwise_cosine():
    k, v, q = inputs(CASES[0])
    unit = k / np.linalg.norm(k, axis=-1, keepdims=True)
    n = k.shape[1]
    r = [(float((u @ u.T).sum()) - n) / (n * (n - 1)) for u in unit.astype(np.float64)]
    online = foveal.evict.select(k, v, q, budget=96)
    table = foveal.evict.select(k, v, q, budget=96, head_weight=r)
    assert [rows.tolist() for rows in online] == [rows.tolist() for rows in table]
    assert 0 < min(r) < max(r) < 1


@pytest.mark.parametrize("policy", ["snapkv", "pyramidkv", "adakv", "streaming", "random"])
@pytest.mark.parametrize("mix", [*MIXES.values(), "sharp"])
def test_a_budget_that_covers_all_keeps_all(policy, mix):
    k, v, q = inputs(CASES[0])
    for rows in foveal.evict.select(k, v, q, budget=k.shape[1], policy=policy, mix=mix, il=1, n_layer=3):
        assert rows.tolist() == list(range(k.shape[1]))


def sharp_rows(k, v, q, budget, window=32, kernel=5):
    """Mix "sharp" in numpy, in float64: rows kept by each KV head."""
    kept, (n_head_kv, n, d), m = [], k.shape, k.shape[1] - window
    for ih, group in enumerate(np.split(q.astype(np.float64), n_head_kv)):
        scores = group @ k[ih].astype(np.float64).T / np.sqrt(d)  # [g, window, n]
        scores = np.where(np.arange(n) > m + np.arange(window)[:, None], -np.inf, scores)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)

        def pool(x):
            return np.convolve(x[:m], np.ones(kernel) / kernel, "same")

        def at(x, mean):
            return x * mean / x.mean()

        def stretched(x):
            return (x - x.min()) / (x.max() - x.min())

        mean = pool(p.mean((0, 1))).mean()
        unit = k[ih] / np.linalg.norm(k[ih], axis=-1, keepdims=True)
        diversity = at(stretched(-(unit @ unit.mean(0))[:m]), mean)
        vnorm = at(stretched(np.linalg.norm(v[ih, :m], axis=-1)), mean)
        evidence = (at(pool(p[:, -1].mean(0)), mean) + at(pool(p.max((0, 1))), mean)) / 2
        best = np.argsort(-np.sqrt(evidence + vnorm) * diversity, kind="stable")[: budget - window]
        kept.append(sorted(best.tolist()) + list(range(m, n)))
    return kept


@pytest.mark.parametrize("budget", [40, 64, 128])
def test_sharp_equals_its_definition(budget):
    for case in {c["inputs"]: c for c in CASES}.values():
        k, v, q = inputs(case)
        kept = foveal.evict.select(k, v, q, budget=budget, policy="snapkv", mix="sharp")
        assert [rows.tolist() for rows in kept] == sharp_rows(k, v, q, budget)


def test_the_window_and_the_sinks_stay():
    k, v, q = inputs(CASES[0])
    n = k.shape[1]
    for policy in ("snapkv", "pyramidkv", "adakv", "streaming", "random"):
        for rows in foveal.evict.select(k, v, q, budget=64, policy=policy, sinks=4):
            assert rows[:4].tolist() == [0, 1, 2, 3]
            assert rows[-32:].tolist() == list(range(n - 32, n))
            assert np.all(np.diff(rows) > 0)
    streaming = foveal.evict.select(k, v, q, budget=64, policy="streaming", sinks=4)
    assert streaming[0].tolist() == [0, 1, 2, 3, *range(n - 60, n)]


def test_random_follows_its_seed():
    k, v, q = inputs(CASES[0])

    def draw(seed):
        return [rows.tolist() for rows in foveal.evict.select(k, v, q, policy="random", seed=seed)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(1)[0] != draw(1)[1]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"budget": 32}, "window"),
        ({"budget": 0}, "budget"),
        ({"policy": "sparsemm"}, "head"),
        ({"policy": "SnapKV"}, "snapkv, pyramidkv, adakv, sparsemm, streaming, random"),
        ({"mix": "other"}, "none, vnorm, keydiff, fixed, mixkv, sharp"),
        ({"kernel": 4}, "odd"),
        ({"il": 1}, "il"),
        ({"head_weight": [0.5]}, "head_weight"),
        ({"window": 16}, "Q_window"),
    ],
)
def test_bad_arguments(change, part):
    k, v, q = inputs(CASES[0])
    with pytest.raises(foveal.ArgumentError, match=part):
        foveal.evict.select(k, v, q, **change)
    assert len(foveal.evict.select(k, v, q)) == k.shape[0]
