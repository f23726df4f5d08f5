"""Quantisers: blocks, their errors, whole files and what must be refused."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import foveal
from foveal import _foveal, rawfile
from foveal.quantize import RECIPES, choose_type, more_bits, quantize_file
from goldens import DATA, distance, exact

gguf = pytest.importorskip("gguf")

SOURCE = DATA / "text_llama" / "model-f16.gguf"
# |x - round trip| / |x| of normally distributed numbers: what the types reach, with a hundredth to spare. ggml's own
# quantisers: Q8_0 0.00536, Q6_K 0.0178, Q5_K 0.0362, Q4_K 0.0715, Q4_0 0.0861.
ERRORS = {
    "Q8_0": 0.00542,
    "Q6_K": 0.01755,
    "Q5_K": 0.03525,
    "Q4_K": 0.0715,
    "Q4_0": 0.0870,
    "Q5_0": 0.0435,
    "Q5_1": 0.04,
}


def normal(rows: int = 64, cols: int = 1024) -> np.ndarray:
    return (np.random.default_rng(7).standard_normal((rows, cols)) * 0.02).astype(np.float32)


def round_trip(kind: str, x: np.ndarray) -> np.ndarray:
    return _foveal.dequantize_rows(kind, _foveal.quantize_rows(kind, x), x.shape[1])


@pytest.mark.parametrize("kind", ERRORS)
def test_error_of_a_round_trip(kind: str) -> None:
    x = normal()
    found = distance(round_trip(kind, x), x)
    assert 0.9 * ERRORS[kind] < found < ERRORS[kind]


@pytest.mark.parametrize("kind", ERRORS)
def test_every_element_is_within_its_step(kind: str) -> None:
    x = normal(8, 512)
    x[3, 100] = 0.9  # an outlier widens the steps of its own block only
    x[5] += 0.05
    bits = int(kind[1])
    blocks = x.reshape(-1, 32)
    span = np.maximum(blocks.max(axis=1), 0) - np.minimum(blocks.min(axis=1), 0)
    if kind in ("Q8_0", "Q6_K", "Q4_0", "Q5_0"):  # symmetric: the step follows the largest magnitude
        span = 2 * np.abs(blocks).max(axis=1)
    step = span / (2**bits - 1)
    error = np.abs(round_trip(kind, x).reshape(-1, 32) - blocks).max(axis=1)
    assert (error <= 1.6 * step).all(), (error / step).max()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_0", "Q5_1"])
def test_blocks_equal_the_reference_bit_for_bit(kind: str) -> None:
    x = normal()
    x[0, :32] = 0
    x[1, :32] = 1
    x[2, :32] = -1
    x[3, 40] = 70.0
    x[4, :64] = np.arange(64) - 32
    assert np.array_equal(_foveal.quantize_rows(kind, x), gguf.quants.quantize(x, gguf.GGMLQuantizationType[kind]))


@pytest.mark.parametrize("kind", ERRORS)
def test_dequantised_blocks_equal_the_reference(kind: str) -> None:
    blocks = _foveal.quantize_rows(kind, normal())
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    assert np.array_equal(_foveal.dequantize_rows(kind, blocks, 1024), expected)


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e-2, 6e4])
def test_constant_blocks(kind: str, value: float) -> None:
    x = np.full((1, 256), value, np.float32)
    found = round_trip(kind, x)
    assert np.isfinite(found).all()
    assert np.abs(found - x).max() <= abs(value) * 2.0 ** -(int(kind[1]) - 1)


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -1e6])
def test_numbers_that_do_not_fit(kind: str, value: float) -> None:
    x = normal(1, 256)
    x[0, 77] = value
    with pytest.raises(foveal.ArgumentError, match=r"at 77.*65504"):
        _foveal.quantize_rows(kind, x)


def test_rows_that_do_not_fit() -> None:
    with pytest.raises(foveal.ArgumentError, match=r"100 columns.*256"):
        _foveal.quantize_rows("Q4_K", np.zeros((1, 100), np.float32))
    with pytest.raises(foveal.ArgumentError, match="Q9_K"):
        _foveal.quantize_rows("Q9_K", np.zeros((1, 256), np.float32))
    with pytest.raises(foveal.ArgumentError, match=r"IQ4_XS.*not written"):
        _foveal.quantize_rows("IQ4_XS", np.zeros((1, 256), np.float32))
    with pytest.raises(foveal.ArgumentError, match="7, expected a multiple of a row's 144"):
        _foveal.dequantize_rows("Q4_K", np.zeros((1, 7), np.uint8), 256)


def test_layers_with_more_bits() -> None:
    assert [i for i in range(28) if more_bits(i, 28)] == [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]


def test_mixes() -> None:
    mixed, plain = RECIPES["Q4_K_M"], RECIPES["Q4_0"]
    wide, narrow, odd = (512, 512), (576, 512), (100, 512)
    assert choose_type("blk.0.attn_v.weight", wide, mixed, 28, True) == "Q6_K"
    assert choose_type("blk.3.attn_v.weight", wide, mixed, 28, True) == "Q4_K"
    assert choose_type("blk.5.ffn_down.weight", wide, mixed, 28, True) == "Q6_K"
    assert choose_type("blk.0.attn_q.weight", wide, mixed, 28, True) == "Q4_K"
    assert choose_type("token_embd.weight", wide, mixed, 28, True) == "Q6_K"
    assert choose_type("token_embd.weight", wide, mixed, 28, False) == "Q4_K"
    assert choose_type("output.weight", wide, plain, 28, False) == "Q6_K"
    assert choose_type("blk.0.attn_q.weight", narrow, mixed, 28, True) == "Q5_0"
    assert choose_type("blk.0.attn_v.weight", narrow, mixed, 28, True) == "Q8_0"
    assert choose_type("blk.0.attn_q.weight", narrow, RECIPES["Q5_K"], 28, True) == "Q5_1"
    assert choose_type("blk.0.attn_q.weight", odd, mixed, 28, True) == "F16"
    for name in ("blk.0.attn_norm.weight", "v.patch_embd.weight", "v.position_embd.weight", "blk.0.attn_q.bias"):
        assert choose_type(name, wide, mixed, 28, True) is None
    assert choose_type("rope_freqs.weight", (64,), mixed, 28, True) is None


@pytest.mark.parametrize("recipe", RECIPES)
def test_files_run_and_keep_their_keys(recipe: str, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    types = quantize_file(SOURCE, target, recipe, threads=2)
    before, after = rawfile.read(SOURCE), rawfile.read(target)
    changed = {key for key in after.keys if after.keys[key] != before.keys.get(key)}
    assert changed <= {b"general.file_type", b"general.quantization_version"}
    assert after.integer(b"general.file_type", -1) == RECIPES[recipe].file_type
    assert [t.name for t in after.tensors] == [t.name for t in before.tensors]
    assert sum(types.values()) == len(after.tensors)
    for old, new in zip(before.tensors, after.tensors, strict=True):
        if len(old.ne) == 1:
            assert new.type == "F32"
            assert np.array_equal(old.data, new.data)
    names = {t.name: t for t in gguf.GGUFReader(target).tensors}
    original = {t.name: t for t in gguf.GGUFReader(SOURCE).tensors}
    for name, t in names.items():
        x = original[name].data.astype(np.float32)
        assert distance(gguf.quants.dequantize(t.data, t.tensor_type), x) < 0.09
    with foveal.Model(target, threads=1) as model, model.session(exact()) as session:
        session.prefill("What is in the image?")
        with foveal.Model(SOURCE, threads=1) as full, full.session(exact()) as reference:
            reference.prefill("What is in the image?")
            limit = {"F16": 1e-6, "Q8_0": 0.05, "Q6_K": 0.1}.get(recipe, 0.35)
            assert distance(session.logits, reference.logits) <= limit


def test_picture_encoders(tmp_path: Path) -> None:
    folder, target = DATA / "qwen2vl", tmp_path / "mmproj.gguf"
    types = quantize_file(folder / "mmproj-f16.gguf", target, "Q8_0")
    assert types["Q8_0"] > 10
    kept = {t.name: t.type for t in rawfile.read(target).tensors}
    assert kept["v.patch_embd.weight"] == kept["v.patch_embd.weight.1"] == "F16"
    foveal.Model(folder / "model-f16.gguf", mmproj=target).close()
    with pytest.raises(foveal.ArgumentError, match=r"picture encoder.*Q8_0 or F16.*Q4_K_M"):
        quantize_file(folder / "mmproj-f16.gguf", tmp_path / "no.gguf", "Q4_K_M")
    assert sorted(os.listdir(tmp_path)) == ["mmproj.gguf"]


def test_refusals(tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    with pytest.raises(foveal.ArgumentError, match=r"Q3_K.*Q4_K_M"):
        quantize_file(SOURCE, target, "Q3_K")
    with pytest.raises(foveal.UnsupportedError, match="already"):
        quantize_file(DATA / "text_llama" / "model-q8_0.gguf", target, "Q4_K_M")
    with pytest.raises(foveal.FileError, match="missing"):
        quantize_file(tmp_path / "missing.gguf", target, "Q8_0")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(foveal.Error):
        quantize_file(tmp_path / "bad.gguf", target, "Q8_0")
    assert sorted(os.listdir(tmp_path)) == ["bad.gguf"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    target.write_bytes(b"precious")

    def interrupt(name: str, share: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_file(SOURCE, target, "Q8_0", progress=interrupt)
    assert target.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["out.gguf"]


def test_in_place(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(SOURCE.read_bytes())
    quantize_file(path, path, "Q4_K_M")
    assert path.stat().st_size < 0.5 * SOURCE.stat().st_size
    foveal.Model(path).close()


def test_command(tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"

    def run(*args: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "foveal", "quantize", *args], capture_output=True, text=True, timeout=120
        )

    done = run(str(SOURCE), str(target), "q4_k_m")
    assert done.returncode == 0, done.stderr
    assert "19 Q4_K" in done.stdout
    assert target.exists()
    assert run(str(SOURCE), str(target)).returncode == 2
    done = run(str(SOURCE), str(target), "Q9")
    assert done.returncode == 2
    assert "Q4_K_M" in done.stderr
