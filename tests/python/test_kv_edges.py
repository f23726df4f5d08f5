"""Eviction beside everything else a session does: cuts, refusals, other chats, M-RoPE, broken tables, Ctrl-C."""

import copy
import dataclasses
import pickle
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

import foveal
from foveal.calibrate import Tables
from foveal.kv import Policy
from foveal.session import generate_options
from goldens import DATA, load
from test_kv_pin import held

IDS = [3 + 7 * i % 200 for i in range(300)]
PLAIN = {"policy": "snapkv", "mix": "none"}


def tail(session: foveal.Session) -> int:
    """How many of the newest rows every head holds."""
    rows, n = held(session), 0
    while session.n_tokens - 1 - n in rows:
        n += 1
    return n


def test_the_window_stays_when_its_queries_went_with_rows_taken_back() -> None:
    model = load("text_qwen2")
    session = model.session(n_ctx=4000)
    session.chat("word " * 300, max_tokens=1)
    reply = session.chat([{"role": "user", "content": "word " * 200}], max_tokens=1)
    assert session.n_tokens - reply.stats.cached_tokens < 32  # fewer queries than the window has rows
    assert tail(session.fork(foveal.KV(64, **PLAIN))) >= 32
    session = model.session()
    for n in (200, 100, 50):
        session.prefill(IDS[:n])
    session.undo()
    session.undo()
    with pytest.raises(foveal.StateError, match="queries"):
        session.evict(foveal.KV(64, **PLAIN))
    session.evict(foveal.KV())  # nothing to choose
    assert session.n_tokens == 200 and len(held(session)) == 200
    assert tail(session.fork(foveal.KV(64, policy="streaming"))) == 64
    session.step(5)
    session.evict(foveal.KV(64, **PLAIN))
    assert tail(session) >= 32


def test_a_window_beyond_the_queries_that_are_there_is_refused() -> None:
    model = load("text_qwen2")
    session, own = model.session(), model.session(foveal.KV(window=128))
    for s in (session, own):
        s.prefill(IDS)
    with pytest.raises(foveal.ArgumentError, match="window: found 128, expected at most 64"):
        session.evict(foveal.KV(160, window=128, **PLAIN))
    own.evict(foveal.KV(160, window=128, **PLAIN))
    assert tail(own) >= 128


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    info, random = load("text_qwen2").info, np.random.default_rng(0)
    scores = random.random((info["n_layer"], info["n_head"]), np.float32)
    weight = random.random((info["n_layer"], info["n_head_kv"]), np.float32)
    Tables(scores, weight).save(tmp_path / "t.gguf")
    Tables(scores, np.full_like(weight, np.nan)).save(tmp_path / "nan.gguf")
    return tmp_path / "t.gguf"


@pytest.mark.parametrize("policy", ["sparsemm", "adakv"])
def test_a_refused_evict_leaves_the_tables(tables: Path, policy: Policy) -> None:
    sessions = [load("text_qwen2").session(foveal.KV(64, policy, window=16, slack=4, tables=tables)) for _ in range(2)]
    for s in sessions:
        s.prefill(IDS[:120])
    with pytest.raises(foveal.ArgumentError, match="budget"):
        sessions[0].evict(foveal.KV("1KiB", window=16))
    with pytest.raises(foveal.FileError, match=r"none\.gguf"):
        sessions[0].evict(foveal.KV(64, window=16, tables=tables.parent / "none.gguf"))
    for s in sessions:
        for token in range(40):
            s.step(token)
        s.prefill(IDS[:50])
    assert np.array_equal(sessions[0].logits, sessions[1].logits)
    assert sessions[0].kv_stats().r == sessions[1].kv_stats().r


def test_tables_hold_finite_numbers(tables: Path) -> None:
    with pytest.raises(foveal.FormatError, match="head_weight': found nan at 0"):
        load("text_qwen2").session(foveal.KV(64, tables=tables.parent / "nan.gguf"))


def chat(system: str, user: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def test_the_system_message_is_that_of_the_newest_chat() -> None:
    kv, question = foveal.KV(200, window=16, pin="system", **PLAIN), "tell me about many things please " * 25
    careful = "You read every letter twice. " * 3
    pinned = []
    for first in (None, chat("You are A.", "Hi"), [{"role": "user", "content": "Hi"}]):
        session = load("text_qwen2").session(kv, n_ctx=4000)
        if first:
            session.chat(first, max_tokens=1)
        session.chat(chat(careful, question), max_tokens=1)
        rows = held(session)
        pinned.append(next(i for i in range(4000) if i not in rows))
    assert pinned[0] > 30 and pinned == pinned[:1] * 3


def test_the_newest_question_is_pinned_where_its_rows_were_cached(tmp_path: Path) -> None:
    question = "what is the number on the third line of "
    model, kv = load("text_qwen2"), foveal.KV(90, window=16, slack=4, pin="last-turn", **PLAIN)

    def pinned(*turns: list[dict[str, str]]) -> tuple[set[int], int]:
        session = model.session(kv, n_ctx=4000)
        for messages in turns:
            session.chat(messages, max_tokens=2)
        session.save(tmp_path / "s.kv")
        n = session.n_tokens
        for s in (session, again := model.load_session(tmp_path / "s.kv")):
            for i in range(120):
                s.step(5 + i % 50)
        assert held(again) == held(session)
        return {i for i in held(session) if i < n}, n

    once, n = pinned([{"role": "user", "content": question + "it"}])
    assert len(once) >= n - 3  # all but the answer
    assert pinned(*2 * [[{"role": "user", "content": question + "it"}]])[0] == once
    assert len(pinned(*[[{"role": "user", "content": question + x}] for x in ("this", "it")])[0]) >= len(once)
    history = [*chat("Be kind to all.", "Who is there?"), {"role": "assistant", "content": "Nobody at all is there."}]
    rows, n = pinned([*history, {"role": "user", "content": question + "it"}])
    assert len([i for i in rows if i >= n - 40]) >= 28 and not {0, 1, 2, 3} <= rows  # the question, not what it follows


def talk(*said: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(said)]


def test_the_newest_question_survives_what_reads_again() -> None:
    model = load("text_qwen2")
    kv, said = foveal.KV(64, window=8, pin="last-turn"), talk("word " * 150, "ok", "Hi?")
    session = model.session(kv, n_ctx=4000)
    session.chat(said, max_tokens=4)
    assert held(session._replay(kv)) == held(session)
    whole = model.session(n_ctx=4000)
    reply = whole.chat(said, max_tokens=4)
    before = held(whole.fork(kv))
    whole.chat([*said, *talk("", reply.text, "more?")[1:]], max_tokens=4)
    assert not whole.undo().replayed
    assert held(whole.fork(kv)) == before


def test_a_begun_answer_leaves_its_question_pinned() -> None:
    model, said = load("text_qwen2"), talk("word " * 20, "so so " * 30)
    n = model.session().chat(said, max_tokens=1).stats.prompt_tokens
    session = model.session(foveal.KV(n + 10, window=8, pin="last-turn", slack=0), n_ctx=4000)
    session.chat(said, max_tokens=100)
    assert session.n_tokens > n + 40 and set(range(n - 8)) <= held(session)


def test_with_the_files_own_template_the_newest_turn_is_pinned() -> None:
    model = foveal.Model(DATA / "text_qwen2" / "model-f16.gguf", threads=1, chat_template="jinja")
    session = model.session(foveal.KV(120, window=8, pin="last-turn"), n_ctx=4000)
    said = [talk("word " * 20)[0]]
    for turn in range(3):
        reply = session.chat(said, max_tokens=2)
        said += [{"role": "assistant", "content": reply.text}, {"role": "user", "content": f"{turn} " + "word " * 15}]
    assert session.kv_stats().rows_max < session.n_tokens


def test_a_picture_of_more_rows_than_positions() -> None:
    model, picture = load("qwen2vl"), np.random.default_rng(0).integers(0, 255, (392, 392, 3), np.uint8)
    for kv in (foveal.KV(), foveal.KV(150, policy="snapkv")):
        session = model.session(kv, n_ctx=64)
        session.prefill([1, picture, 5, 6])
        assert session.n_tokens > 150 and session.pos < 30
        for token in range(30):
            session.step(token)
    with pytest.raises(foveal.ContextFull, match=r"\d+ rows, \d+ of 168 are free"):
        model.session(n_ctx=21).prefill([1, picture, 5, 6])
    model.session(foveal.KV(150), n_ctx=21).prefill([1, picture, 5, 6])


@pytest.mark.parametrize("call", ["undo", "replay"])
def test_ctrl_c_ends_what_reads_rows_again(call: str) -> None:
    session = load("text_qwen2").session(foveal.KV(64, window=16), n_ctx=40000)
    for n in (4000, 40, 5):
        session.prefill([3 + i % 200 for i in range(n)])
    run = session.undo if call == "undo" else lambda: session._replay(foveal.KV())
    before = (session.tokens, held(session))
    timer = threading.Timer(0.02, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run()
        timer.join()  # where it was done sooner, the test can't tell
    assert (session.tokens, held(session)) == before
    run()


def test_a_cancelled_reply_doesnt_cancel_what_is_read_again() -> None:
    session = load("text_qwen2").session(foveal.KV(64, window=16))
    with session.chat("word " * 100, max_tokens=20, stream=True) as stream:
        next(stream)
    assert session._replay(foveal.KV()).n_tokens == session.n_tokens


def test_reports_show_the_pictures_that_are_held(tmp_path: Path) -> None:
    model, random = load("qwen2vl"), np.random.default_rng(0)
    a, b = (random.integers(0, 255, (56, 84, 3), np.uint8) for _ in range(2))
    session = model.session(n_ctx=60)

    def shown(s: foveal.Session) -> list[np.ndarray | None]:
        return [image.pixels for image in s.kv_report().images]

    session.chat("what?", images=[a], max_tokens=2)
    with pytest.raises(foveal.ContextFull):
        session.chat("word " * 80, images=[b], max_tokens=2)
    assert all(np.array_equal(p, a) for p in shown(session)) and len(shown(session.fork())) == 1
    assert np.array_equal(shown(session.fork())[0], a)
    session = model.session(n_ctx=2000)
    session.chat("what?", images=[a, b], max_tokens=2)
    session.refresh(0)
    assert [np.array_equal(p, q) for p, q in zip(shown(session), [a, b, a], strict=True)] == [True] * 3
    session.undo()
    session.save(tmp_path / "s.kv")
    back = model.load_session(tmp_path / "s.kv")
    back._next([{"role": "user", "content": "and?", "images": [b]}], None, generate_options()).reply()
    assert [p is None for p in shown(back)] == [True, True, False] and np.array_equal(shown(back)[2], b)
    back.prefill([a, 6])  # whose pixels aren't kept
    assert [p is None for p in shown(back)] == [True, True, False, True]


def test_evict_says_what_its_budget_came_to() -> None:
    session = load("text_qwen2").session()
    session.prefill(IDS[:200])
    assert session.evict(foveal.KV("25%")).budget_rows == 50


def test_options_can_be_copied_and_sent() -> None:
    kv = foveal.KV(64, "snapkv", sinks=4, pin="system")
    for other in (copy.deepcopy(kv), pickle.loads(pickle.dumps(kv)), foveal.KV(**dataclasses.asdict(kv))):
        assert other == kv and other is not kv
    assert dataclasses.replace(kv, sinks=2).sinks == 2
    with pytest.raises(foveal.ArgumentError, match="budget"):
        dataclasses.replace(kv, budget=10)
