"""`foveal convert`: folders made back from the tiny models give the same files again; every bad folder is named."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import foveal
from goldens import DATA, Case, exact, greedy

gguf = pytest.importorskip("gguf")
safetensors_numpy = pytest.importorskip("safetensors.numpy")

from foveal.convert import convert_folder  # noqa: E402
from foveal.convert.output import narrow  # noqa: E402
from foveal.convert.pre_tokenizer import KNOWN, pre_tokenizer_name  # noqa: E402
from hf_folders import MODEL_TYPES, SPLITS, Source, write_folder  # noqa: E402

FAMILIES = list(MODEL_TYPES)
SPM = ("llava15", "llavanext", "gemma3", "text_mistral", "text_gemma3_text")
# Keys that the fixtures' files have and ours needn't: names, sizes, remarks, and legacy LLaVA's own.
LEFT_OUT = re.compile(
    r"GGUF\.|general\.(name|size_label|description)|clip\.has_text_encoder|clip\.use_gelu|clip\.vision\.(projection_dim"
    r"|mm_projector_type|image_(crop|split)_resolution)"
)


def has_vision(family: str) -> bool:
    return (DATA / family / "mmproj-f16.gguf").exists()


def convert(family: str, folder: Path, **options: Any) -> tuple[Path, Path | None]:
    """(text file, mmproj or None) made from the family's folder."""
    outtype = options.pop("outtype", "f16")
    source = write_folder(family, folder / "hf", **options)
    text, mmproj = folder / "model.gguf", folder / "mmproj.gguf" if has_vision(family) else None
    assert convert_folder(source, text, mmproj=mmproj, outtype=outtype) == []
    return text, mmproj


def golden_source(family: str, name: str) -> Source:
    """A fixture's file, legacy LLaVA's names brought to today's."""
    source = Source(DATA / family / f"{name}-f16.gguf")
    if name == "mmproj" and family.startswith("llava"):
        swap = {"ffn_up": "ffn_down", "ffn_down": "ffn_up", "model.image_newline": "v.image_newline"}
        pattern = "|".join(swap)
        source.tensors = {re.sub(pattern, lambda m: swap[m[0]], k): w for k, w in source.tensors.items()}
    return source


def same_file(found: Path, expected: Source, kinds: dict[str, str]) -> None:
    made = Source(found)
    assert set(made.tensors) == set(expected.tensors)
    for name, w in expected.tensors.items():
        assert made.tensors[name].size == w.size
        assert np.array_equal(made.tensors[name].reshape(w.shape), w), name
    for key, value in expected.keys.items():
        if LEFT_OUT.match(key) or key == "tokenizer.ggml.scores":
            continue
        assert np.array_equal(made.keys[key], value), (key, made.keys[key], value)
    for t in gguf.GGUFReader(found).tensors:
        plain = len(t.shape) == 1 or "position_embd" in t.name
        assert t.tensor_type.name == ("F32" if plain else kinds.get(t.name, kinds[""])), t.name


@pytest.mark.parametrize("family", FAMILIES)
def test_files_equal_the_originals_conversion(family: str, tmp_path: Path) -> None:
    text, mmproj = convert(family, tmp_path)
    expected = golden_source(family, "model")
    if "gemma3" in family:  # tokenizer.json tells the unknown word from control tokens
        del expected.keys["tokenizer.ggml.token_type"]
    same_file(text, expected, {"": "F16"})
    if mmproj:
        same_file(mmproj, golden_source(family, "mmproj"), {"": "F16"})


@pytest.mark.parametrize("family", SPM)
def test_sentencepiece_models(family: str, tmp_path: Path) -> None:
    text, _ = convert(family, tmp_path, model_file=True)
    made, expected = Source(text).keys, Source(DATA / family / "model-f16.gguf").keys
    for name in ("tokens", "token_type", "add_bos_token", "bos_token_id"):
        assert made[f"tokenizer.ggml.{name}"] == expected[f"tokenizer.ggml.{name}"], name
    real = [kind != 5 for kind in expected["tokenizer.ggml.token_type"]]
    scores = [np.array(keys["tokenizer.ggml.scores"])[real] for keys in (made, expected)]
    assert np.array_equal(*scores)


@pytest.mark.parametrize("original", [False, True])
def test_internvl_in_both_namings(original: bool, tmp_path: Path) -> None:
    _, mmproj = convert("internvl3", tmp_path, original=original)
    assert mmproj is not None
    same_file(mmproj, golden_source("internvl3", "mmproj"), {"": "F16"})


@pytest.mark.parametrize("family", FAMILIES)
def test_converted_models_give_the_golden_tokens(family: str, tmp_path: Path) -> None:
    text, mmproj = convert(family, tmp_path)
    with foveal.Model(text, mmproj=mmproj, threads=1) as model:
        for name in ("", "text") if mmproj else ("",):
            case = Case(family, name)
            with model.session(exact()) as session:
                session.prefill(case.parts())
                ids = np.array(session.tokens)
                expected = np.array(case.arrays["input_ids"]).reshape(-1)
                assert np.array_equal(ids[ids >= 0], expected[ids >= 0])
                assert greedy(session, 16)[0] == case.arrays["greedy_ids"].tolist()


@pytest.mark.parametrize("family", SPM)
def test_both_tokenizer_files_cut_alike(family: str, tmp_path: Path) -> None:
    texts = ["What is in the image?", "  two  spaces, thethe <s> héllo", "", "I am an island of 12 things\n\n"]
    a, _ = convert(family, tmp_path / "a")
    b, _ = convert(family, tmp_path / "b", model_file=True)
    one, two, golden = (foveal.Tokenizer(path) for path in (a, b, DATA / family / "model-f16.gguf"))
    for text in texts:
        assert one.encode(text) == two.encode(text) == golden.encode(text)


@pytest.mark.parametrize(("outtype", "kind"), [("f32", "F32"), ("bf16", "BF16")])
def test_outtypes(outtype: str, kind: str, tmp_path: Path) -> None:
    text, mmproj = convert("gemma3", tmp_path, outtype=outtype)
    assert mmproj is not None
    types = {t.name: t.tensor_type.name for path in (text, mmproj) for t in gguf.GGUFReader(path).tensors}
    assert types["blk.0.attn_q.weight"] == types["v.blk.0.ffn_up.weight"] == kind
    assert types["v.patch_embd.weight"] == "F32"
    assert types["mm.input_projection.weight"] == ("F32" if outtype == "f32" else "F16")
    foveal.Model(text, mmproj=mmproj).close()


def bits(values: np.ndarray) -> np.ndarray:
    return narrow("x", values, "bf16").astype(np.uint32) << 16


def test_bfloat16_both_ways(tmp_path: Path) -> None:
    x = np.array([1.0, 1.00390625, 1.01171875, -3.140625, 1e-40, np.inf, np.nan, 3.4e38], np.float32)
    found = bits(x).astype(np.uint32).view(np.float32)
    expected = np.array([1.0, 1.0, 1.015625, -3.140625, found[4], np.inf, np.nan, np.inf], np.float32)
    assert np.array_equal(found, expected, equal_nan=True)  # ties go to even
    family = "text_qwen2"
    folder = write_folder(family, tmp_path / "hf")
    for path in folder.glob("*.safetensors"):
        tensors = safetensors_numpy.load_file(path)
        as_bf16(path, tensors)
    convert_folder(folder, tmp_path / "out.gguf", outtype="f32")
    original, made = Source(DATA / family / "model-f16.gguf"), Source(tmp_path / "out.gguf")
    for name, w in original.tensors.items():
        cut = (w.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        assert np.array_equal(made.tensors[name], cut), name


def as_bf16(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes safetensors by hand: the upper halves of float32."""
    header, data = {}, b""
    for name, w in tensors.items():
        upper = (w.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        header[name] = {"dtype": "BF16", "shape": list(w.shape), "data_offsets": [len(data), len(data) + upper.nbytes]}
        data += upper.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_llama3_divisors(tmp_path: Path) -> None:
    folder = write_folder("text_llama", tmp_path / "hf")
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    edit(folder / "config.json", rope_scaling=scaling | {"original_max_position_embeddings": 8192}, rope_theta=500000.0)
    convert_folder(folder, tmp_path / "out.gguf")
    found = Source(tmp_path / "out.gguf").tensors["rope_freqs.weight"]
    wave = 2 * np.pi * 500000.0 ** (np.arange(32) / 32)  # tokens a turn
    assert np.array_equal(found[wave < 8192 / 4], np.ones((wave < 8192 / 4).sum()))
    assert np.array_equal(found[wave > 8192], np.full((wave > 8192).sum(), 8.0))
    between = found[(wave >= 8192 / 4) & (wave <= 8192)]
    assert between.size > 0
    assert ((between > 1) & (between < 8)).all()
    foveal.Model(tmp_path / "out.gguf").close()


def test_yarn(tmp_path: Path) -> None:
    folder = write_folder("text_qwen2", tmp_path / "hf")
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "beta_fast": 16}
    edit(folder / "config.json", rope_scaling=scaling)
    convert_folder(folder, tmp_path / "out.gguf")
    keys = Source(tmp_path / "out.gguf").keys
    assert keys["qwen2.rope.scaling.type"] == "yarn"
    assert keys["qwen2.rope.scaling.factor"] == 4
    assert keys["qwen2.rope.scaling.original_context_length"] == 1024
    assert keys["qwen2.rope.scaling.yarn_beta_fast"] == 16
    foveal.Model(tmp_path / "out.gguf").close()


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_windows_and_encoders_left_out_are_told(tmp_path: Path) -> None:
    folder = write_folder("text_mistral", tmp_path / "a")
    edit(folder / "config.json", sliding_window=4096)
    notes = convert_folder(folder, tmp_path / "out.gguf")
    assert len(notes) == 1
    assert "4096" in notes[0]
    notes = convert_folder(write_folder("qwen2vl", tmp_path / "b"), tmp_path / "out.gguf")
    assert len(notes) == 1
    assert "--mmproj" in notes[0]


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "tekken", "gpt-4o", "smollm", "gpt-2"])
def test_pre_tokenizers(name: str) -> None:
    steps: list[dict[str, Any]] = []
    cuts = next(cuts for cuts, known in KNOWN.items() if known == name)
    for cut in cuts:
        if cut == "digits":
            steps.append({"type": "Digits", "individual_digits": True})
        elif cut == "bytes":
            steps.append({"type": "ByteLevel", "add_prefix_space": False, "use_regex": True})
        else:
            steps.append({"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": False})
    if "bytes" not in cuts:
        steps.append({"type": "ByteLevel", "add_prefix_space": False, "use_regex": False})
    assert pre_tokenizer_name(Path("t"), {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}) == name
    if name == "qwen2":
        assert cuts == (SPLITS["qwen2"],)
    if len(steps) == 1:
        assert pre_tokenizer_name(Path("t"), {"pre_tokenizer": steps[0]}) == name


def unknown_pre_tokenizer(folder: Path) -> None:
    cut = {"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Isolated", "invert": False}
    edit(folder / "tokenizer.json", pre_tokenizer=cut)


def drop_tensor(folder: Path, name: str) -> None:
    for path in folder.glob("*.safetensors"):
        tensors = safetensors_numpy.load_file(path)
        if tensors.pop(name, None) is not None:
            safetensors_numpy.save_file(tensors, path)


def add_tensor(folder: Path) -> None:
    path = min(folder.glob("*.safetensors"))
    tensors = safetensors_numpy.load_file(path)
    safetensors_numpy.save_file(tensors | {"model.layers.0.surprise.weight": np.zeros(3, np.float32)}, path)


def large_number(folder: Path) -> None:
    path = min(folder.glob("*.safetensors"))
    tensors = {k: w.astype(np.float32) for k, w in safetensors_numpy.load_file(path).items()}
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = 1e6
    safetensors_numpy.save_file(tensors, path)


def cut_file(folder: Path) -> None:
    path = min(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), foveal.FileError, r"config\.json"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), foveal.FormatError, r"config\.json.*JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), foveal.FormatError, "list.*object"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), foveal.FileError, "tokenizer.json nor tokenizer.model"),
    "no pictures": (
        lambda f: (f / "preprocessor_config.json").unlink(), foveal.FileError, r"preprocessor_config\.json",
    ),
    "no mean": (
        lambda f: edit(f / "preprocessor_config.json", image_mean=None), foveal.FormatError, "image_mean.*3 numbers",
    ),
    "no weights": (
        lambda f: [p.unlink() for p in f.glob("*.safetensors*")], foveal.FileError, r"expected \*\.safetensors",
    ),
    "a part missing": (
        lambda f: max(f.glob("*.safetensors")).unlink(), foveal.FileError, "00002-of-00002.*index.json names it",
    ),
    "cut": (cut_file, foveal.FormatError, "00001-of-00002"),
    "unknown architecture": (
        lambda f: edit(f / "config.json", model_type="mamba", architectures=["MambaForCausalLM"]),
        foveal.UnsupportedError, "MambaForCausalLM.*mamba.*known are.*qwen2_vl",
    ),
    "tensor missing": (
        lambda f: drop_tensor(f, "model.layers.1.mlp.up_proj.weight"), foveal.FormatError,
        r"layers\.1\.mlp\.up_proj\.weight' is missing",
    ),
    "vision tensor missing": (
        lambda f: drop_tensor(f, "visual.blocks.2.norm1.bias"), foveal.FormatError, r"v\.blk\.2\.ln1\.bias",
    ),
    "tensor too many": (add_tensor, foveal.UnsupportedError, r"layers\.0\.surprise\.weight' has no place"),
    "wrong heads": (
        lambda f: edit(f / "config.json", num_attention_heads=8), foveal.FormatError, "q_proj|k_proj|v_proj",
    ),
    "heads of text": (
        lambda f: edit(f / "config.json", num_attention_heads="four"), foveal.FormatError,
        "num_attention_heads.*'four'",
    ),
    "too large for F16": (
        large_number, foveal.UnsupportedError, r"blk\.1\.ffn_up\.weight.*1000000.*--outtype bf16",
    ),
    "unknown pre-tokenizer": (unknown_pre_tokenizer, foveal.UnsupportedError, r"Split '\[a-z\]\+'.*known are.*qwen2"),
    "unigram": (
        lambda f: edit(f / "tokenizer.json", model={"type": "Unigram", "vocab": []}), foveal.UnsupportedError,
        "Unigram",
    ),
    "odd tokenizer": (lambda f: edit(f / "tokenizer.json", model=None), foveal.FormatError, r"tokenizer\.json"),
    "no SentencePiece": (
        lambda f: (f / "tokenizer.model").write_bytes(b"\x0a\xff\xff\xff"), foveal.FormatError, r"tokenizer\.model",
    ),
    "odd windows": (
        lambda f: edit(f / "config.json", rope_scaling={"rope_type": "longrope", "mrope_section": [8, 12, 12]}),
        foveal.UnsupportedError, "longrope",
    ),
    "a word for RoPE": (lambda f: edit(f / "config.json", rope_scaling="yarn"), foveal.FormatError, "unexpected kind"),
    "a word for the encoder": (
        lambda f: edit(f / "config.json", vision_config="x"), foveal.FormatError, "unexpected kind",
    ),
    "too large a context": (
        lambda f: edit(f / "config.json", max_position_embeddings=2**40), foveal.FormatError, "unexpected kind",
    ),
    "a word for a token": (
        lambda f: (f / "added_tokens.json").write_text('{"<x>": "abc"}'), foveal.FormatError, "unexpected kind",
    ),
    "no sections": (lambda f: edit(f / "config.json", rope_scaling=None), foveal.FormatError, "mrope_section"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_folders(name: str, tmp_path: Path) -> None:
    damage, error, said = BAD[name]
    folder = write_folder("qwen2vl", tmp_path / "hf")
    damage(folder)
    text, mmproj = tmp_path / "model.gguf", tmp_path / "mmproj.gguf"
    with pytest.raises(error, match=said):
        convert_folder(folder, text, mmproj=mmproj)
        foveal.Model(text, mmproj=mmproj)
    assert not [p for p in os.listdir(tmp_path) if p.endswith(".part")]


def test_bad_arguments(tmp_path: Path) -> None:
    folder = write_folder("text_qwen3", tmp_path / "hf")
    with pytest.raises(foveal.ArgumentError, match=r"q4_k.*f16, bf16|q4_k.*f32"):
        convert_folder(folder, tmp_path / "out.gguf", outtype="q4_k")
    with pytest.raises(foveal.ArgumentError, match="text model"):
        convert_folder(folder, None, mmproj=tmp_path / "out.gguf")
    with pytest.raises(foveal.FileError, match="no such folder"):
        convert_folder(tmp_path / "nowhere", tmp_path / "out.gguf")
    with pytest.raises(foveal.FileError, match=r"nowhere"):
        convert_folder(folder, tmp_path / "nowhere" / "out.gguf")


def test_command(tmp_path: Path) -> None:
    folder = write_folder("qwen3vl", tmp_path / "hf")

    def run(*args: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "foveal", "convert", *args], capture_output=True, text=True, timeout=120
        )

    text, mmproj = tmp_path / "a.gguf", tmp_path / "b.gguf"
    done = run(str(folder), "-o", str(text), "--mmproj", str(mmproj), "--outtype", "bf16")
    assert done.returncode == 0, done.stderr
    assert text.exists()
    assert mmproj.exists()
    assert run(str(folder)).returncode == 2
    done = run(str(tmp_path / "missing"), "-o", str(text))
    assert done.returncode == 4
    assert "missing" in done.stderr
