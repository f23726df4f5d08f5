"""What is pinned stays: the system message, the newest question, ranges, pictures; what can't be held is refused."""

from pathlib import Path

import pytest

import foveal
from goldens import DATA, load

PICTURE = DATA / "qwen2vl" / "image0.png"
SYSTEM = {"role": "system", "content": "Answer as a pirate would, and never in more than four words."}


def held(session: foveal.Session) -> set[int]:
    """Rows that every head of every layer that is evicted still holds."""
    sets = [set(rows.tolist()) for il in range(session.model.info["n_layer"]) for rows in session.kept(il)]
    return set.intersection(*sets)


def talk(session: foveal.Session, turns: int = 3) -> list[dict[str, object]]:
    messages: list[dict[str, object]] = [SYSTEM]
    for turn in range(turns):
        question = {"role": "user", "content": f"What else of number {turn} is there to see in the picture?"}
        messages.append(question | ({"images": [PICTURE]} if turn == 0 else {}))
        messages.append({"role": "assistant", "content": session.chat(messages, max_tokens=12).text})
    return messages


def test_system_and_last_turn() -> None:
    model = load("qwen2vl")
    pinned = model.session(foveal.KV(budget=110, window=8, slack=4, pin="system,last-turn"), n_ctx=4000)
    plain = model.session(foveal.KV(budget=110, window=8, slack=4), n_ctx=4000)
    for session in (pinned, plain):
        talk(session)
    assert pinned.tokens[:10] == plain.tokens[:10]
    text = model.detokenize([t for t in pinned.tokens if t >= 0][:200])
    end = text.index("four words.") + len("four words.")
    n = len(model.tokenize(text[:end]))
    assert set(range(n)) <= held(pinned)
    assert not set(range(n)) <= held(plain)
    question = len(pinned.tokens)  # the last question: from its start to the answer
    marker = model.tokenize("number 2 is there")
    while pinned.tokens[question : question + len(marker)] != marker:
        question -= 1
    assert set(range(question, question + 12)) <= held(pinned)
    assert not set(range(question, question + 12)) <= held(plain)
    assert max(pinned.kv_stats().rows_max, 1) < pinned.n_tokens  # something else went


def test_ranges_and_pictures(tmp_path: Path) -> None:
    model = load("qwen2vl")
    session = model.session(foveal.KV(budget=90, window=8, slack=4, pin="3:9,20:25"))
    session.prefill(list(range(3, 60)))
    session.prefill([DATA / "qwen2vl" / "image1.png", *range(60, 70)])
    rows = [i for i, token in enumerate(session.tokens) if token < 0]
    session.pin(image=0)
    session.save(tmp_path / "a.kv")
    back = model.load_session(tmp_path / "a.kv")
    assert back.kv.pin == "3:9,20:25"
    for s in (session, back):
        before = held(s)
        s.prefill(list(range(70, 200)))
        assert {*range(3, 9), *range(20, 25)} <= held(s)
        assert set(rows) & before <= held(s)
    for wrong in ({}, {"image": 1}, {"image": -1}, {"start": 0, "stop": 1, "image": 0}):
        with pytest.raises(foveal.ArgumentError):
            session.pin(**wrong)  # type: ignore[arg-type]
    with pytest.raises(foveal.ArgumentError, match="no picture"):
        model.session().pin(image=0)


def test_what_the_budget_cannot_hold_is_refused_before_any_work() -> None:
    model = load("qwen2vl")
    session = model.session(foveal.KV(budget=40, window=16, pin="last-turn"))
    session.prefill(list(range(10)))
    before = session.tokens
    with pytest.raises(foveal.ArgumentError, match=r"at least 77 \(window 16 \+ sinks 0 \+ pinned 60 \+ 1\)"):
        session.prefill(list(range(60)))
    assert session.tokens == before
    with pytest.raises(foveal.ArgumentError, match="pinned"):
        session.prefill([PICTURE, *range(60)])
    assert session._native.stats()["ms"]["image_encode"] == 0
    session.prefill([PICTURE, *range(5)])  # only the text of a turn counts


@pytest.mark.parametrize("text", ["sistem", "1", "1:", ":2", "5:5", "9:2", "-1:4", "1:99999999999", "system,,x"])
def test_words_that_are_none(text: str) -> None:
    with pytest.raises(foveal.ArgumentError, match="pin"):
        foveal.KV(budget=64, pin=text)


def test_words_that_are() -> None:
    assert foveal.KV(pin="").pin == ""
    load("qwen2vl").session(foveal.KV(budget=64, pin="last-turn,system,0:4"))
