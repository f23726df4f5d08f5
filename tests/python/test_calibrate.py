"""Measured attention and the tables made from it, on a tiny model."""

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

import foveal
from foveal.calibrate import Calibration, calibrate
from goldens import DATA, load

FOLDER = DATA / "qwen2vl"
PICTURE = FOLDER / "image0.png"
PARTS = [PICTURE, "What is it?"]


@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
def test_attention_is_what_eviction_scores(dtype: str) -> None:
    """Rows sum to one, none looks ahead, and the mass on kept rows is the one that eviction reports."""
    model = load("qwen2vl")
    session = model.session(foveal.KV(dtype=dtype))
    session.prefill(PARTS)
    n, i = session.n_tokens, model.info
    group = i["n_head"] // i["n_head_kv"]
    evicted = session.fork()
    stats = evicted.evict(foveal.KV(24, "snapkv", window=16, dtype=dtype))
    for il in range(i["n_layer"]):
        heads = session.attention(il, 16)
        assert [h.shape for h in heads] == [(16, n)] * i["n_head"]
        for h in heads:
            assert h.sum(1) == pytest.approx(1, abs=1e-5)
            assert not np.triu(h[:, n - 16 :], 1).any()
        for ih, kept in enumerate(evicted.kept(il)):
            mass = np.mean([h[:, kept].sum(1) for h in heads[ih * group : (ih + 1) * group]])
            assert stats.kept_mass[il * i["n_head_kv"] + ih] == pytest.approx(mass, abs=1e-5)


def test_attention_follows_decoded_tokens_and_evicted_rows() -> None:
    model = load("qwen2vl")
    session = model.session(foveal.KV(24, "adakv", window=16, dtype="f32"))
    session.prefill(PARTS)
    session.step(5)
    for il in range(model.info["n_layer"]):
        kept = session.kept(il)
        group = model.info["n_head"] // len(kept)
        for ih, h in enumerate(session.attention(il)):
            assert h.shape == (1, len(kept[ih // group]))
            assert h.sum() == pytest.approx(1, abs=1e-5)
    for bad in (0, 65):
        with pytest.raises(foveal.ArgumentError, match="queries"):
            session.attention(0, bad)
    with pytest.raises(foveal.ArgumentError, match="il"):
        session.attention(model.info["n_layer"])


def test_attention_of_a_sliding_window_is_refused() -> None:
    model = load("gemma3")
    session = model.session()
    session.prefill(list(range(5, 25)))
    windows = model.info["sliding_window"]
    with pytest.raises(foveal.UnsupportedError, match="window"):
        session.attention(next(il for il, w in enumerate(windows) if w), 1)
    assert session.attention(next(il for il, w in enumerate(windows) if not w), 1)


def test_scores_are_the_attention_on_the_region() -> None:
    model = load("qwen2vl")
    box, answer = (0, 0, 40, 40), " it is here"
    tables = calibrate(model, [(PARTS, answer, box), (PARTS, answer, None)])
    assert (tables.n_scored, tables.n_items) == (1, 2)
    tokens = model.tokenize(answer, False)
    session = model.session(foveal.KV(dtype="f32"))
    session.prefill(PARTS)
    n = session.n_tokens
    report = session.kv_report().images[0]
    b = report.boxes
    rows = report.rows[(b[:, 0] < 40) & (b[:, 1] < 40) & (b[:, 2] > 0) & (b[:, 3] > 0)]
    assert 0 < len(rows) < len(report.rows)
    for token in tokens[:-1]:
        session.step(token)
    for il in range(model.info["n_layer"]):
        for ih, h in enumerate(session.attention(il, len(tokens))):
            expected = max(0.0, h[:, rows].sum() / len(tokens) - len(rows) / n)
            assert tables.head_scores[il, ih] == pytest.approx(expected, abs=1e-6)


def test_redundancy_is_the_online_one_of_the_prompt() -> None:
    model = load("qwen2vl")
    tables = calibrate(model, [(PARTS, "a", (0, 0, 9, 9))])
    session = model.session(foveal.KV(dtype="f32"))
    session.prefill(PARTS)
    stats = session.evict(foveal.KV(24, window=16))
    assert np.array(stats.r) == pytest.approx(tables.head_weight.reshape(-1), abs=1e-5)


def test_a_saved_table_is_read_by_sessions(tmp_path: Path) -> None:
    model = load("qwen2vl")
    tables = calibrate(model, [(PARTS, "what", (0, 0, 40, 40))])
    path = tmp_path / "tables.gguf"
    tables.save(path)
    found = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    assert np.array_equal(found["head_scores"], tables.head_scores)
    assert np.array_equal(found["head_weight"], tables.head_weight)
    session = model.session(foveal.KV(24, "sparsemm", window=16, tables=path))
    session.prefill(PARTS)
    assert session.kv_stats().rows_mean < session.n_tokens
    assert np.array(session.kv_stats().r) == pytest.approx(tables.head_weight.reshape(-1), abs=1e-6)


def test_nothing_to_score_is_an_error() -> None:
    calibration = Calibration(load("qwen2vl"))
    calibration.add(PARTS, "a", None)
    with pytest.raises(foveal.ArgumentError, match="box"):
        calibration.tables()


def test_the_command(tmp_path: Path) -> None:
    data, out = tmp_path / "own.jsonl", tmp_path / "t.gguf"
    data.write_text(f'{{"image": "{PICTURE}", "question": "What is it?", "answer": "a b", "box": [0, 0, 40, 40]}}\n')
    args = ["-m", FOLDER / "model-f16.gguf", "--mmproj", FOLDER / "mmproj-f16.gguf", "--data", data, "-o", out]
    done = subprocess.run([sys.executable, "-m", "foveal", "calibrate", *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 items" in done.stderr
    model = load("qwen2vl")
    model.session(foveal.KV(64, "sparsemm", tables=out))
