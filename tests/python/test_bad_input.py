"""Bad input through the Python face: each row names the class and what the message says; then a good call succeeds."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import foveal
from foveal import KV, ArgumentError, ContextFull, Error, FileError, FormatError, MismatchError, UnsupportedError
from goldens import DATA, exact, load

TEXT = DATA / "qwen2vl" / "model-f16.gguf"
MMPROJ = DATA / "qwen2vl" / "mmproj-f16.gguf"
PICTURE = DATA / "qwen2vl" / "image0.png"


def good_call() -> None:
    session = load("qwen2vl").session()
    session.prefill([1, 2, 3])
    assert math.isfinite(session.logits[0])


# ---- files


def broken(tmp_path: Path, name: str) -> Path:
    path = tmp_path / f"{name}.gguf"
    contents = {
        "empty": b"",
        "html": b"<!DOCTYPE html><html>not found</html>",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "zip": b"PK\3\4" + bytes(100),
        "cut": TEXT.read_bytes()[:5000],
        "short": TEXT.read_bytes()[:-1],
    }
    path.write_bytes(contents[name])
    return path


@pytest.mark.parametrize("name", ["empty", "html", "lfs", "zip", "cut", "short"])
def test_broken_model_files(tmp_path: Path, name: str) -> None:
    path = broken(tmp_path, name)
    for load_it in (
        lambda: foveal.Model(path),
        lambda: foveal.Model(TEXT, mmproj=path),
        lambda: foveal.Tokenizer(path),
    ):
        if name == "short" and load_it.__code__.co_names[1:2] == ("Tokenizer",):
            continue
        with pytest.raises((FormatError, FileError), match=path.name):
            load_it()
    good_call()


def test_missing_files(tmp_path: Path) -> None:
    for path in (tmp_path / "no.gguf", tmp_path):
        with pytest.raises(FileError, match=path.name):
            foveal.Model(path)
        with pytest.raises(OSError):
            foveal.Tokenizer(path)
    for value in (None, 5, "", "a\0b", b""):
        with pytest.raises(ArgumentError, match="path"):
            foveal.Model(value)
    good_call()


def test_swapped_and_foreign_files() -> None:
    with pytest.raises((UnsupportedError, MismatchError), match="swap"):
        foveal.Model(MMPROJ, mmproj=TEXT)
    with pytest.raises((UnsupportedError, MismatchError), match="mmproj"):
        foveal.Model(MMPROJ)
    with pytest.raises((UnsupportedError, MismatchError)):
        foveal.Model(TEXT, mmproj=DATA / "text_llama" / "model-f16.gguf")
    with pytest.raises(MismatchError, match=r"\d+"):
        foveal.Model(DATA / "gemma3" / "model-f16.gguf", mmproj=MMPROJ)
    good_call()


@pytest.mark.parametrize(
    "options",
    [
        {"device": "tpu"},
        {"threads": 0},
        {"threads": -1},
        {"threads": 2.5},
        {"threads": True},
        {"gpu_layers": -1},
        {"gpu_layers": "many"},
        {"stream_prefill": "sometimes"},
        {"image_min_tokens": 0},
        {"image_max_tokens": -5},
        {"image_min_tokens": 100, "image_max_tokens": 50},
        {"vision_precision": "fp8"},
        {"chat_template": "no such template"},
    ],
    ids=str,
)
def test_bad_model_options(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        foveal.Model(TEXT, mmproj=MMPROJ, **options)
    good_call()


def test_unknown_keywords_are_type_errors() -> None:
    session = load("qwen2vl").session()
    for call in (
        lambda: foveal.Model(TEXT, n_threads=1),
        lambda: session.chat("a", max_token=1),
        lambda: KV(budgets=1),
    ):
        with pytest.raises(TypeError):
            call()


# ---- KV options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget": 0}, "budget"),
        ({"budget": -1}, "budget"),
        ({"budget": 1.5}, "budget"),
        ({"budget": "lots"}, "budget"),
        ({"budget": "0%"}, "budget"),
        ({"budget": "120%"}, "budget"),
        ({"budget": "5 parsecs"}, "budget"),
        ({"budget": 32, "window": 32}, "33|more|window"),
        ({"budget": 40, "window": 32, "sinks": 8}, "41|more|sinks"),
        ({"window": 0}, "window"),
        ({"window": -1}, "window"),
        ({"sinks": -1}, "sinks"),
        ({"slack": -1}, "slack"),
        ({"policy": "lru"}, "snapkv"),
        ({"policy": None}, "policy"),
        ({"mix": "both"}, "mixkv"),
        ({"scope": "text"}, "prompt"),
        ({"on_full": "explode"}, "stop"),
        ({"dtype": "f8"}, "f16"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"tables": 5}, "tables"),
    ],
    ids=str,
)
def test_bad_kv_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        KV(**options)
    KV(budget=33, window=32)
    KV(budget=10**9)


def test_bad_session_options() -> None:
    model = load("qwen2vl")
    for n_ctx in (0, -1, 2**31, 1.5, "many"):
        with pytest.raises(ArgumentError, match="n_ctx"):
            model.session(n_ctx=n_ctx)
    with pytest.raises(ArgumentError, match="KV"):
        model.session(kv=256)
    good_call()


# ---- prompts


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([-1], r"parts\[0\].*-1"),
        ([1, 2, 10**6], r"parts\[2\]"),
        ([2**31], "2147483648"),
        ([1.5], r"parts\[0\].*1.5"),
        ([None], "None"),
        ([True], "True"),
        ([object()], "object"),
        ([np.array([1, 10**6])], "1000000"),
        ([np.zeros((2, 2))], "float64"),
        (5, "list"),
        (b"bytes", "list"),
        ([], ""),
        ("", ""),
    ],
    ids=str,
)
def test_bad_prompts(parts: Any, said: str) -> None:
    session = load("qwen2vl").session()
    session.prefill([1, 2])
    before = (session.tokens, session.pos, session.kv_bytes, session.logits.tobytes())
    with pytest.raises(ArgumentError, match=said or "."):
        session.prefill(parts)
    assert (session.tokens, session.pos, session.kv_bytes, session.logits.tobytes()) == before
    session.prefill(["fine"])


@pytest.mark.parametrize("text", [" ", "\0", "\0\0a", "\ud800", "\udcff", "a" * 4000, "‮ab" + "́" * 500, "𝔘" * 100])
def test_odd_texts_are_tokenised_whole(text: str) -> None:
    tokenizer = load("qwen2vl").tokenizer
    ids = tokenizer.encode(text)
    assert ids
    if not any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        assert tokenizer.decode(ids) == text


def test_bad_tokens() -> None:
    model = load("qwen2vl")
    session = model.session()
    session.prefill([1])
    for token in (-1, model.info["n_vocab"], 2**31, 1.0, "a", None):
        with pytest.raises(ArgumentError, match="token"):
            session.step(token)
        with pytest.raises(ArgumentError, match=r"tokens\[1\]"):
            model.detokenize([1, token])
    session.step(2)
    with pytest.raises(foveal.StateError):
        _ = model.session().logits


def test_pictures_and_marks() -> None:
    model = load("qwen2vl")
    session = model.session()
    with pytest.raises(ArgumentError, match="images"):
        session.chat([{"role": "user", "content": [{"type": "image"}]}])
    with pytest.raises(ArgumentError, match="mmproj"):
        foveal.Model(TEXT, threads=1).session().chat("what?", images=[PICTURE])
    with pytest.raises(ContextFull, match=r"image_max_tokens=\d+") as full:
        model.session(n_ctx=14).prefill(["a", PICTURE, PICTURE])
    fits = int(re.search(r"image_max_tokens=(\d+)", str(full.value))[1])
    small = foveal.Model(TEXT, mmproj=MMPROJ, threads=1, image_max_tokens=fits)
    small.session(n_ctx=14).prefill(["a", PICTURE, PICTURE])
    with pytest.raises(ContextFull):
        model.session(n_ctx=100).prefill([PICTURE] * 100)
    with pytest.raises(ContextFull, match=r"\d+ positions, \d+"):
        model.session(n_ctx=16).prefill(["word " * 100])
    session.prefill([PICTURE, "what?"])


SIDES = [(1, 1), (1, 7), (7, 1), (200, 1), (2, 300)]


@pytest.mark.parametrize("family", sorted(p.parent.name for p in DATA.glob("*/mmproj-f16.gguf")))
@pytest.mark.parametrize("size", [*SIDES, (16384, 1), (1, 16384)], ids=str)
def test_odd_picture_sizes(family: str, size: tuple[int, int]) -> None:
    model = load(family)
    picture = np.full((size[1], size[0], 3), 77, np.uint8)
    try:
        rows = model.encode_image(picture)
    except foveal.ImageError as e:
        assert str(size[0]) in str(e)
    else:
        assert rows.shape == (rows.shape[0], model.info["n_embd"])
        assert 1 <= rows.shape[0] <= 16384
        assert np.isfinite(rows).all()
    rows = model.encode_image(np.full((40, 40, 3), 77, np.uint8))
    assert np.isfinite(rows).all()


# ---- sampling


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": math.nan},
        {"temperature": -1},
        {"temperature": math.inf},
        {"temperature": "hot"},
        {"temperature": 1e30},
        {"top_p": -0.1},
        {"top_p": 2},
        {"top_p": math.nan},
        {"top_k": -1},
        {"top_k": 1.5},
        {"min_p": -0.1},
        {"min_p": 1.5},
        {"repeat_penalty": 0},
        {"repeat_penalty": math.inf},
        {"max_tokens": -2},
        {"max_tokens": 2**31},
        {"seed": -1},
        {"seed": 2**64},
        {"stop": ""},
        {"stop": [""]},
        {"stop": [5]},
    ],
    ids=str,
)
def test_bad_sampling_options(options: dict[str, Any]) -> None:
    session = load("qwen2vl").session()
    with pytest.raises(ArgumentError, match=next(iter(options))):
        session.chat("a", **options)
    assert session.n_tokens == 0
    session.chat("a", max_tokens=1)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1e-30, "seed": 1},
        {"temperature": 1e6, "seed": 1},
        {"temperature": 1, "top_p": 0, "seed": 1},
        {"temperature": 1, "top_k": 10**6, "seed": 1},
        {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0, "seed": 2**64 - 1},
        {"max_tokens": 0},
        {"stop": [str(i) for i in range(10_000)]},
    ],
    ids=lambda o: str(o)[:60],
)
def test_extreme_sampling_options(options: dict[str, Any]) -> None:
    reply = load("qwen2vl").session().chat("a", **{"max_tokens": 4, **options})
    assert reply.stats.completion_tokens <= 4


# ---- eviction on arrays, sessions


ARRAYS = {
    name: np.ones((heads, n, 8), np.float32) for name, heads, n in (("K", 2, 64), ("V", 2, 64), ("Q_window", 4, 16))
}


@pytest.mark.parametrize(
    "change",
    [
        {"K": np.ones((2, 8), np.float32)},
        {"V": np.ones((2, 63, 8), np.float32)},
        {"Q_window": np.ones((3, 16, 8), np.float32)},
        {"Q_window": np.ones((4, 15, 8), np.float32)},
        {"K": np.ones((0, 64, 8), np.float32), "V": np.ones((0, 64, 8), np.float32)},
        {"K": "K"},
        {"budget": 0},
        {"budget": 16},
        {"policy": "lru"},
        {"mix": "none of them"},
        {"kernel": 0},
        {"kernel": 4},
        {"il": 1},
        {"n_layer": 0},
        {"head_weight": np.ones(3, np.float32)},
        {"head_scores": np.ones((2, 4), np.float32)},
        {"policy": "sparsemm"},
        {"floor": math.nan},
        {"window": 65},
    ],
    ids=lambda c: "-".join(c),
)
def test_bad_eviction_arguments(change: dict[str, Any]) -> None:
    arguments = {**ARRAYS, "window": 16, "budget": 32, **change}
    with pytest.raises(ArgumentError):
        foveal.evict.select(**arguments)
    assert len(foveal.evict.select(**ARRAYS, window=16, budget=32)) == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.kept(99),
        lambda s: s.kept(-1),
        lambda s: s.kv_arrays(2.5),
        lambda s: s.pin(5, 2),
        lambda s: s.pin(0, 10**6),
        lambda s: s.pin(-1, 2),
        lambda s: s.evict(None),
    ],
    ids=["kept 99", "kept -1", "kv_arrays 2.5", "pin backwards", "pin past the end", "pin -1", "evict None"],
)
def test_bad_session_arguments(call: Callable[[foveal.Session], Any]) -> None:
    session = load("qwen2vl").session(exact())
    session.prefill([1, 2, 3])
    with pytest.raises(ArgumentError):
        call(session)
    session.step(4)


def test_context_full_modes() -> None:
    model = load("qwen2vl")
    stopped = model.session(n_ctx=64).chat("a", max_tokens=-1, stop=[])
    assert stopped.stats.finish_reason in ("context", "stop")
    session = model.session(foveal.KV(on_full="error"), n_ctx=32)
    session.prefill([1] * 32)
    with pytest.raises(ContextFull):
        session.step(1)
    assert session.n_tokens == 32


def test_every_error_is_a_foveal_error() -> None:
    for name in foveal.__all__:
        cls = getattr(foveal, name)
        if isinstance(cls, type) and issubclass(cls, Exception):
            assert issubclass(cls, Error)
            assert issubclass(cls, RuntimeError)
