"""Session files: what comes back is what was saved; everything damaged, foreign or crafted is refused."""

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

import foveal
from goldens import DATA, Case, greedy, load

EVICTED = foveal.KV(budget=48, window=16)
CASES = [
    (Case("qwen2vl", ""), None),  # M-RoPE
    (Case("qwen2vl", "two"), EVICTED),
    (Case("qwen3vl", ""), foveal.KV(budget=48, window=16, policy="snapkv", on_full="evict")),
    (Case("gemma3", ""), foveal.KV(budget=40, window=16, scope="prompt")),  # sliding windows
    (Case("llavanext", ""), foveal.KV(budget="25%", window=8, sinks=2)),  # rows of tiles, newline rows
    (Case("smolvlm", ""), EVICTED),  # text between tiles
    (Case("text_llama", "long"), foveal.KV(budget=40, window=16, dtype="q8_0", policy="streaming")),
]


def small(path: Path) -> Path:
    """A little session with everything in it: evicted, stepped, pinned."""
    session = load("text_llama").session(foveal.KV(budget=20, window=8, slack=4), n_ctx=256)
    session.prefill(list(range(3, 40)))
    session.pin(1, 3)
    session.step(7)
    session.save(path)
    return path


def signed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize(("case", "kv"), CASES, ids=[f"{c}-{kv is not None}" for c, kv in CASES])
def test_round_trip(case: Case, kv: foveal.KV | None, tmp_path: Path) -> None:
    model = load(case.family)
    session = model.session(kv)
    session.prefill(case.parts())
    session.step(5)
    session.pin(0, 2)
    session.save(tmp_path / "a.kv")
    back = model.load_session(tmp_path / "a.kv")
    assert back.kv == session.kv
    assert (back.tokens, back.pos, back.n_ctx) == (session.tokens, session.pos, session.n_ctx)
    for il in range(model.info["n_layer"]):
        assert [k.tolist() for k in back.kept(il)] == [k.tolist() for k in session.kept(il)]
    assert np.array_equal(back.logits, session.logits)
    assert back.kv_bytes == session.kv_bytes
    a, b = greedy(session, 40), greedy(back, 40)  # past the slack: evicted again on the way, by the same queries
    assert a[0] == b[0]
    assert np.array_equal(a[1], b[1])
    session.prefill([9, 8, 7])  # the window is filled from the saved queries
    back.prefill([9, 8, 7])
    assert np.array_equal(session.logits, back.logits)
    back.save(tmp_path / "b.kv")
    session.save(tmp_path / "c.kv")
    assert (tmp_path / "b.kv").read_bytes() == (tmp_path / "c.kv").read_bytes()


def test_chat_goes_on(tmp_path: Path) -> None:
    model = load("qwen2vl")
    session = model.session(EVICTED)
    talk = [{"role": "user", "content": "What is it?", "images": [DATA / "qwen2vl" / "image0.png"]}]
    reply = session.chat(talk, max_tokens=6)
    session.save(tmp_path / "a.kv")
    back = model.load_session(tmp_path / "a.kv")
    talk += [{"role": "assistant", "content": reply.text}, {"role": "user", "content": "And?"}]
    expected, found = session.chat(talk, max_tokens=6), back.chat(talk, max_tokens=6)
    assert found == expected
    assert found.stats.cached_tokens == expected.stats.cached_tokens > 0


def test_another_model_is_refused(tmp_path: Path) -> None:
    session = load("qwen2vl").session()
    session.prefill([1, 2, 3])
    session.save(tmp_path / "a.kv")
    folder = DATA / "qwen2vl"
    others = {
        "another model": load("text_llama"),
        "another quantisation": load("qwen2vl", "q8_0"),
        "no mmproj": foveal.Model(folder / "model-f16.gguf", threads=1),
        "other limits of pictures": load("qwen2vl", image_max_tokens=16),
    }
    for what, model in others.items():
        with pytest.raises(foveal.MismatchError, match="saved with") as e:
            model.load_session(tmp_path / "a.kv")
        assert "expected the same files" in str(e.value), what


def test_another_version_is_refused(tmp_path: Path) -> None:
    data = bytearray(small(tmp_path / "a.kv").read_bytes()[:-32])
    (now,) = struct.unpack_from("<I", data, 8)
    for version in (0, 1, now - 1, now + 1, 2**32 - 1):
        data[8:12] = struct.pack("<I", version)
        (tmp_path / "a.kv").write_bytes(signed(bytes(data)))
        with pytest.raises(foveal.MismatchError, match=f"format {version}"):
            load("text_llama").load_session(tmp_path / "a.kv")


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = small(tmp_path / "a.kv")
    model, size = load("text_llama"), path.stat().st_size
    rng = np.random.default_rng(11)
    missed = []
    with path.open("r+b", buffering=0) as file:
        for bit in [*range(512), *rng.integers(0, size * 8, 9488)]:
            at, mask = int(bit) // 8, 1 << int(bit) % 8
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ mask]))
            try:
                model.load_session(path).close()
                missed.append(int(bit))
            except foveal.FormatError:
                pass
            file.seek(at)
            file.write(bytes([byte]))
    assert missed == []
    model.load_session(path).close()


def test_truncated(tmp_path: Path) -> None:
    data = small(tmp_path / "a.kv").read_bytes()
    cut, model = tmp_path / "cut.kv", load("text_llama")
    for percent in range(100):
        cut.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises((foveal.FormatError, foveal.FileError) if percent == 0 else foveal.FormatError):
            model.load_session(cut)


def test_files_that_are_none(tmp_path: Path) -> None:
    model = load("text_llama")
    with pytest.raises(foveal.FileError, match=r"a\.kv"):
        model.load_session(tmp_path / "a.kv")
    with pytest.raises(foveal.FileError, match="directory"):
        model.load_session(tmp_path)
    with pytest.raises(foveal.FormatError, match="not a session file"):
        model.load_session(DATA / "text_llama" / "model-f16.gguf")
    session = model.session()
    session.prefill([1, 2])
    for path in (tmp_path, tmp_path / "no" / "a.kv"):
        with pytest.raises(foveal.FileError):
            session.save(path)
    assert list(tmp_path.iterdir()) == []


def use(session: foveal.Session) -> None:
    """Everything that a user would do with it; only our own errors may come."""
    for work in (
        lambda: session.step(3),
        lambda: [session.kept(il) for il in range(session.model.info["n_layer"])],
        lambda: session.evict(foveal.KV(budget=18, window=8)),
        lambda: session.prefill([4, 5, 6]),
        lambda: session.chat("x", max_tokens=2),
        session.undo,
        session.undo,
    ):
        try:
            work()
        except foveal.Error:
            pass


@pytest.mark.parametrize("family", ["text_llama", "qwen2vl"])
def test_crafted_files_never_crash(family: str, tmp_path: Path) -> None:
    """Nonsense under a valid checksum: fields of eight, four and one bytes changed anywhere."""
    path, model = tmp_path / "a.kv", load(family)
    if family == "text_llama":
        small(path)
    else:
        session = model.session(foveal.KV(budget=20, window=8, slack=4), n_ctx=256)
        session.chat("Hm?", images=[DATA / "qwen2vl" / "image1.png"], max_tokens=3)
        session.save(path)
    body = path.read_bytes()[:-32]
    rng = np.random.default_rng(5)
    numbers = [0, 1, -1, 2, 255, 2**31 - 1, 2**31, 2**32, 2**62, -(2**63), 2**63 - 1]
    opened = 0
    for i in range(1500):
        data = bytearray(body)
        # most of the structure lies in front, the rest is rows of numbers
        at = int(rng.integers(12, min(len(body) - 8, 3000 if i % 3 else len(body) - 8)))
        value = struct.pack("<q", numbers[int(rng.integers(len(numbers)))])
        n = (8, 8, 4, 1)[int(rng.integers(4))]
        data[at : at + n] = value[:n]
        if i % 10 == 0:  # and something taken out
            del data[at : at + int(rng.integers(1, 64))]
        path.write_bytes(signed(bytes(data)))
        try:
            with model.load_session(path) as session:
                opened += 1
                if opened % 4 == 0:
                    use(session)
        except (foveal.FormatError, foveal.MismatchError, foveal.MemoryLimit):
            pass
    assert opened > 50
