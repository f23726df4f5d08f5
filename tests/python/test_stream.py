"""Replies piece by piece: closed, abandoned, ended by another call or refused to another thread."""

import gc
import threading
import time

import pytest

import foveal
from goldens import load

QUESTION = [{"role": "user", "content": "What is in this picture?"}]


def test_stream_equals_whole_reply() -> None:
    model = load("qwen2vl")
    whole = model.session().chat(QUESTION, max_tokens=12)
    stream = model.session().chat(QUESTION, max_tokens=12, stream=True)
    with pytest.raises(foveal.StateError, match="complete"):
        _ = stream.stats
    pieces = list(stream)
    assert "".join(pieces) == whole.text == stream.text
    assert stream.tokens == whole.tokens
    assert stream.stats.finish_reason == whole.stats.finish_reason


def test_closing_a_stream_cancels() -> None:
    session = load("qwen2vl").session()
    with session.chat(QUESTION, max_tokens=200, stream=True) as stream:
        next(stream)
    assert stream.stats.finish_reason == "cancelled"
    assert len(stream.tokens) < 200
    assert session.chat(QUESTION, max_tokens=4).stats.completion_tokens <= 4


def test_abandoned_stream_leaves_the_next_turn_alone() -> None:
    session = load("qwen2vl").session()
    old = session.chat(QUESTION, max_tokens=50, stream=True)
    next(old)
    new = session.chat(QUESTION, max_tokens=6, stream=True)
    del old
    gc.collect()
    list(new)
    assert new.stats.finish_reason != "cancelled"


def test_a_refused_call_of_another_thread_leaves_the_reply_alone() -> None:
    session = load("text_llama").session(n_ctx=4000)
    alone = load("text_llama").session(n_ctx=4000).chat("hi", max_tokens=400).stats.completion_tokens
    refused = threading.Event()

    def second() -> None:
        while session._stream is None:
            time.sleep(0)
        try:
            session.chat("x", max_tokens=1)  # may come between two tokens: then it is its turn
        except foveal.StateError:
            refused.set()

    thread = threading.Thread(target=second)
    thread.start()
    reply = session.chat("hi", max_tokens=400)
    thread.join()
    assert not refused.is_set() or reply.stats.completion_tokens == alone


def test_a_step_ends_the_reply_that_is_read() -> None:
    session = load("text_llama").session()
    stream = session.chat("hi", max_tokens=50, stream=True)
    next(stream)
    session.step(5)
    assert list(stream) == [] and stream.stats.finish_reason == "cancelled"


def test_passing_the_trained_context_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    model = load("text_llama")
    trained = model.info["n_ctx_train"]
    session = model.session(foveal.KV(64, "streaming", window=16), n_ctx=trained + 100)
    session.prefill([3 + i % 200 for i in range(trained - 1)])
    session.step(3)
    assert "trained" not in caplog.text
    for _ in range(3):
        session.step(3)
    session.chat("hi", max_tokens=2)
    session.fork().step(3)
    assert caplog.text.count("trained for") == 1
