"""plan() against what a run then measures: within 5 %. Weights, encoder and total: tests/runtime/test_plan_measured."""

import numpy as np
import pytest

import foveal
from goldens import DATA, load

FAMILIES = ["qwen2vl", "qwen25vl", "qwen3vl", "gemma3", "internvl3", "llava15", "llavanext", "smolvlm"]
SIZES = [(300, 200), (120, 260)]


def near(found: float, measured: float) -> bool:
    return abs(found - measured) <= 0.05 * measured


@pytest.mark.parametrize("budget", [None, 400, "50%"])
@pytest.mark.parametrize("family", FAMILIES)
def test_plan_is_what_a_run_measures(family: str, budget: int | str | None) -> None:
    model, folder = load(family), DATA / family
    kv = foveal.KV(budget=budget, policy="snapkv", window=16, slack=32)  # no second eviction on the way: exact rows
    text, answer = 500, 20
    images = [(w, h, 1) for w, h in SIZES]
    planned = foveal.plan(folder / "model-f16.gguf", folder / "mmproj-f16.gguf", images, turns=2, kv=kv,
                          text_tokens=text, reply_tokens=answer)  # fmt: skip
    session = model.session(kv, n_ctx=20000)
    rng = np.random.default_rng(0)
    peak = 0
    for size, turn, rows in zip(SIZES, planned.turns, planned.rows_per_image, strict=True):
        picture = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        seen = session.tokens.count(-1)
        bos = 1 if session.n_tokens == 0 and model.tokenizer.add_bos else 0
        session.prefill([picture, *([5] * (text - bos))])
        assert session.tokens.count(-1) - seen == rows == turn["image_rows"]
        peak = max(peak, turn["prefill_peak"])
        assert near(peak, session.kv_peak_bytes)
        for _ in range(answer):
            session.step(5)
        assert session.n_tokens == turn["rows"]
        assert near(turn["kv_bytes"], session.kv_bytes)
        assert near(turn["kv_bytes_full"], session.kv_stats().bytes_without_eviction)


def test_what_would_fit_is_said_and_true() -> None:
    folder = DATA / "qwen2vl"
    files = (folder / "model-f16.gguf", folder / "mmproj-f16.gguf")
    images = [(1920, 1080, 4)]
    whole = foveal.plan(*files, images, turns=2, memory=1 << 40)
    assert whole.fits and whole.advice == ""
    tight = foveal.plan(*files, images, turns=2, memory=int(whole.total * 0.97))
    assert not tight.fits
    flag, rows = tight.advice.split()[:2]
    assert flag == "--kv-budget"
    again = foveal.plan(*files, images, turns=2, kv=foveal.KV(budget=int(rows)), memory=int(whole.total * 0.97))
    assert again.fits
    assert again.total < whole.total
    hopeless = foveal.plan(*files, images, memory=1000)
    assert "weights alone" in hopeless.advice
    assert "does not fit" in str(hopeless)
    with pytest.raises(foveal.ArgumentError, match="mmproj"):
        foveal.plan(files[0], None, images)
    with pytest.raises(foveal.FormatError):
        foveal.plan(DATA / "README.md")
