"""Files as others publish them, made from the small models: optional keys and tensors left out, other names."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import foveal
from goldens import DATA

PICTURE = np.random.default_rng(1).integers(0, 255, (41, 70, 3), np.uint8)
IDS = [3 + 7 * i % 200 for i in range(60)]


def variant(
    source: Path, to: Path, keys: Mapping[str, Any] = {}, drop: Iterable[str] = (), zero: Iterable[str] = ()
) -> Path:
    """A copy of a GGUF file with keys set, keys and tensors left out (`drop`: ends of names), tensors set to zero."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(to, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in keys or name.endswith(tuple(drop)):
            continue
        kind, value = field.types[0], field.contents()
        sub = field.types[1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, kind, sub_type=sub)
    for name, value in keys.items():
        kind = gguf.GGUFValueType.UINT32 if isinstance(value, int) else gguf.GGUFValueType.get_type(value)
        writer.add_key_value(name, value, kind)
    for tensor in reader.tensors:
        if tensor.name.endswith(tuple(drop)):
            continue
        data = np.zeros_like(tensor.data) if tensor.name.endswith(tuple(zero)) else np.array(tensor.data)
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to


def logits(path: Path) -> np.ndarray:
    session = foveal.Model(path, threads=1).session()
    session.prefill(IDS)
    return session.logits


def rows(family: str, mmproj: Path | None = None, **options: Any) -> np.ndarray:
    folder = DATA / family
    mmproj = mmproj or folder / "mmproj-f16.gguf"
    return foveal.Model(folder / "model-f16.gguf", mmproj=mmproj, threads=1, **options).encode_image(PICTURE)


@pytest.mark.parametrize("left_out", ["q", "k", "v", "qk", "qkv"])
def test_each_bias_of_the_encoder_is_optional(tmp_path: Path, left_out: str) -> None:
    names = [f"attn_{x}.bias" for x in left_out]
    source = DATA / "internvl3" / "mmproj-f16.gguf"
    without = rows("internvl3", variant(source, tmp_path / "a.gguf", drop=names))
    assert np.array_equal(without, rows("internvl3", variant(source, tmp_path / "b.gguf", zero=names)))
    assert not np.array_equal(without, rows("internvl3"))


@pytest.mark.parametrize("family", ["text_qwen2", "qwen2vl"])
def test_biases_of_the_text_model_are_optional(tmp_path: Path, family: str) -> None:
    names = [f"attn_{x}.bias" for x in "qkv"]
    source = DATA / family / "model-f16.gguf"
    without = logits(variant(source, tmp_path / "a.gguf", drop=names))
    assert np.array_equal(without, logits(variant(source, tmp_path / "b.gguf", zero=names)))


def test_gemma3_without_a_sliding_window(tmp_path: Path) -> None:
    source, key = DATA / "text_gemma3_text" / "model-f16.gguf", "gemma3.attention.sliding_window"
    pattern = key + "_pattern"
    everywhere = logits(variant(source, tmp_path / "a.gguf", {pattern: 1}, drop=[pattern]))
    assert not np.array_equal(everywhere, logits(source))
    assert np.array_equal(everywhere, logits(variant(source, tmp_path / "b.gguf", {key: 0})))
    model = foveal.Model(variant(source, tmp_path / "c.gguf", drop=[key, pattern]), threads=1)
    assert set(model.info["sliding_window"]) == {0}
    session = model.session(foveal.KV(40, window=8))
    session.prefill(IDS)
    assert session.kv_stats().rows_mean <= 40


def test_deepstack_by_its_tensors_alone(tmp_path: Path) -> None:
    source = DATA / "qwen3vl" / "mmproj-f16.gguf"
    bare = variant(source, tmp_path / "a.gguf", drop=["clip.vision.is_deepstack_layers"])
    assert np.array_equal(rows("qwen3vl", bare), rows("qwen3vl"))


def test_the_omni_models_name_of_a_projector(tmp_path: Path) -> None:
    source = DATA / "qwen25vl" / "mmproj-f16.gguf"
    omni = variant(source, tmp_path / "a.gguf", {"clip.projector_type": "qwen2.5o"})
    assert np.array_equal(rows("qwen25vl", omni), rows("qwen25vl"))


def test_limits_of_the_file_are_those_of_smart_resize(tmp_path: Path) -> None:
    """Its roundings may pass a file's tight limits, as in transformers; never a limit that the caller gave."""
    source, area = DATA / "qwen2vl" / "mmproj-f16.gguf", 28 * 28
    text = DATA / "qwen2vl" / "model-f16.gguf"
    for limits, size, expected in (((1, 4), (400, 40), 6), ((9, 9), (97, 41), 10), ((1, 6), (190, 133), 4)):
        keys = dict(zip(("clip.vision.image_min_pixels", "clip.vision.image_max_pixels"), limits, strict=True))
        file = variant(source, tmp_path / "a.gguf", {key: rows * area for key, rows in keys.items()})
        picture = np.zeros((size[1], size[0], 3), np.uint8)
        assert len(foveal.Model(text, mmproj=file, threads=1).encode_image(picture)) == expected
        capped = foveal.Model(text, mmproj=source, threads=1, image_min_tokens=1, image_max_tokens=limits[1])
        assert len(capped.encode_image(picture)) <= limits[1]


@pytest.mark.parametrize(
    ("name", "like"),
    [("smaug-bpe", "llama-bpe"), ("falcon-h1", "llama-bpe"), ("f2llmv2", "qwen2"), ("stablelm2", "qwen2"),
     ("exaone4", "gpt-2"), ("minimax-m2", "gpt-4o"), ("joyai-llm", "deepseek-v3"), ("codeshell", "smollm")],
)  # fmt: skip
def test_names_of_the_same_split(tmp_path: Path, name: str, like: str) -> None:
    source = DATA / "text_qwen2" / "model-f16.gguf"
    files = [variant(source, tmp_path / f"{n}.gguf", {"tokenizer.ggml.pre": n}) for n in (name, like)]
    text = "It's 1234567 o'clock,  isn't it?\n\n  WeLL 日本語かな 12ab / done "
    tokens = [foveal.Tokenizer(file).encode(text) for file in files]
    assert tokens[0] == tokens[1] and foveal.Tokenizer(files[0]).decode(tokens[0]) == text
