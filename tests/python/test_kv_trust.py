"""Undo, refresh, shadow mode, comparison, reports: what they say is what is so."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import foveal
from goldens import DATA, Case, greedy, load

PICTURE = DATA / "qwen2vl" / "image0.png"
TALK = [{"role": "user", "content": "What is in it?", "images": [PICTURE]}]
EVICTED = foveal.KV(budget=40, window=16, slack=8)


def next_turn(talk: list[dict[str, object]], reply: str, text: str) -> list[dict[str, object]]:
    return [*talk, {"role": "assistant", "content": reply}, {"role": "user", "content": text}]


@pytest.mark.parametrize("kv", [None, EVICTED], ids=["whole", "evicted"])
def test_undo_of_a_chat_turn(kv: foveal.KV | None) -> None:
    """After undo the same next turn gives the same bits, and so does another one as if the first had never been."""
    model = load("qwen2vl")
    session, other = model.session(kv), model.session(kv)
    reply = session.chat(TALK, max_tokens=8)
    other.chat(TALK, max_tokens=8)
    second = session.chat(next_turn(TALK, reply.text, "Why so many words of it?"), max_tokens=8)
    undone = session.undo()
    assert undone.replayed == (kv is not None)
    assert ("read again" in undone.note) == undone.replayed
    assert session.n_tokens == other.n_tokens
    again = session.chat(next_turn(TALK, reply.text, "Why so many words of it?"), max_tokens=8)
    assert again.tokens == second.tokens
    assert again.stats.cached_tokens == second.stats.cached_tokens
    session.undo()
    a = session.chat(next_turn(TALK, reply.text, "And?"), max_tokens=8)
    b = other.chat(next_turn(TALK, reply.text, "And?"), max_tokens=8)
    assert a.tokens == b.tokens
    assert np.array_equal(session.logits, other.logits)
    session.undo()
    session.undo()
    assert session.n_tokens == 0
    with pytest.raises(foveal.StateError, match="no turn"):
        session.undo()


def test_undo_without_the_pictures_changes_nothing(tmp_path: Path) -> None:
    model = load("qwen2vl")
    session = model.session(EVICTED)
    session.prefill([PICTURE, *range(30)])
    session.prefill(list(range(40)))
    session.save(tmp_path / "a.kv")
    loaded = model.load_session(tmp_path / "a.kv")
    with pytest.raises(foveal.StateError, match="embeddings"):
        loaded.undo()
    with pytest.raises(foveal.StateError, match="embeddings"):
        loaded.refresh(0)
    assert np.array_equal(loaded.logits, session.logits)
    assert loaded.n_tokens == session.n_tokens
    assert session.undo().replayed


def test_refresh_equals_reading_the_picture_again() -> None:
    model = load("qwen2vl")
    session, other = model.session(EVICTED), model.session(EVICTED)
    for s in (session, other):
        s.prefill([PICTURE, *range(60)])
    held = session.kv_report().image_share(0)
    assert held < 1
    session.refresh(0)
    other.prefill([PICTURE])
    assert np.array_equal(session.logits, other.logits)
    assert session.tokens == other.tokens
    assert session._native.stats()["ms"]["image_encode"] < 5  # nothing was encoded
    with pytest.raises(foveal.ArgumentError, match="picture 2"):
        session.refresh(2)


def test_compress_once_ask_many() -> None:
    """A neutral window behind the picture, one eviction, and every question starts from the same rows."""
    model = load("qwen2vl")
    session = model.session()
    session.prefill([PICTURE, "Look at the picture closely; questions about all of it follow."])
    session.evict(foveal.KV(budget=40, window=16))
    assert session.kv_stats().rows_mean <= 40 < session.n_tokens
    rows = [k.tolist() for k in session.kept(0)]
    for question in ("Top left?", "Bottom right?"):
        with session.fork() as asked:
            asked.prefill([question])
            n = session.n_tokens
            assert [[i for i in k if i < n] for k in asked.kept(0)] == rows  # nothing more has gone


def test_shadow_reports_and_evicts_nothing() -> None:
    model = load("qwen2vl")
    shadow, whole, real = (model.session(kv) for kv in (foveal.KV(budget=40, shadow=True), None, foveal.KV(budget=40)))
    case = Case("qwen2vl", "")
    for s in (shadow, whole, real):
        s.prefill(case.parts())
    assert np.array_equal(shadow.logits, whole.logits)
    assert shadow.kv_bytes == whole.kv_bytes
    assert shadow.kv_stats().rows_mean == whole.n_tokens > real.kv_stats().rows_mean
    assert np.array_equal(shadow.kv_stats().kept_mass, real.kv_stats().kept_mass)
    assert np.array_equal(shadow.kv_stats().r, real.kv_stats().r)
    assert min(shadow.kv_stats().kept_mass) < 1
    a, b = greedy(shadow, 50), greedy(whole, 50)
    assert np.array_equal(a[1], b[1])


def test_compare() -> None:
    model = load("qwen2vl")
    session = model.session(EVICTED)
    session.chat(TALK, max_tokens=4)
    before = (session.tokens, session.logits)
    result = session.compare("What colour?", max_tokens=12)
    assert (session.tokens, session.logits.tolist()) == (before[0], before[1].tolist())
    assert 0 <= result.top1 <= 1
    assert result.mean_kl > 0
    assert (result.first_divergence is None) == (result.top1 == 1)
    assert result.bytes_saved == result.bytes_full - result.bytes_kept > 0
    assert "top-1" in str(result)
    # the whole side is what a session without a budget answers
    whole = model.session()
    reply = whole.chat(TALK, max_tokens=4)
    if reply.tokens == session.tokens[-len(reply.tokens) :]:
        answer = whole.chat(next_turn(TALK, reply.text, "What colour?"), max_tokens=12)
        assert answer.tokens == result.tokens
    same = session.compare("What colour?", max_tokens=12, kv=foveal.KV(budget=4096))
    assert (same.top1, same.mean_kl, same.first_divergence) == (1.0, 0.0, None)
    with pytest.raises(foveal.ArgumentError, match="budget"):
        model.session().compare("x")


@pytest.mark.parametrize(
    "family", ["qwen2vl", "qwen25vl", "qwen3vl", "gemma3", "internvl3", "llava15", "llavanext", "smolvlm"]
)
def test_heatmap_is_where_the_rows_look(family: str) -> None:
    """Rows that look at a known place are pinned and all else goes: the map is one there, less elsewhere."""
    model = load(family)
    picture = sorted((DATA / family).glob("image*.png"))[0]
    width, height = Image.open(picture).size
    session = model.session()
    session.prefill([picture, *range(3, 40)])
    image = session.kv_report().images[0]
    assert image.size == (width, height)
    place = (0.5 * width, 0.5 * height, width, height)  # the lower right quarter
    middle = (image.boxes[:, :2] + image.boxes[:, 2:]) / 2
    area = (image.boxes[:, 2] > image.boxes[:, 0]) & (image.boxes[:, 3] > image.boxes[:, 1])
    inside = area & (middle[:, 0] > place[0]) & (middle[:, 1] > place[1])
    assert 0.1 < inside[area].mean() < 0.4
    rows = image.rows[inside]
    for row in rows:
        session.pin(int(row), int(row) + 1)
    session.evict(foveal.KV(budget=8 + len(rows) + 1, window=8, policy="streaming"))
    heat = session.kv_report().heatmap(0)
    assert heat.shape == (height, width)
    assert not np.isnan(heat).all()
    there = heat[int(0.75 * height) : height - 2, int(0.75 * width) : width - 2]
    elsewhere = heat[: height // 3, : width // 3]
    assert np.nanmean(there) > 0.95
    assert np.nanmean(elsewhere) < 0.2
    one = session.kv_report().heatmap(0, il=len(session.model.info["sliding_window"]) - 1, ih=0)
    assert set(np.unique(one[~np.isnan(one)])) <= {0.0, 0.25, 0.5, 0.75, 1.0} or family in (
        "llavanext",
        "smolvlm",
        "internvl3",
    )


def test_reply_is_typed_and_reports() -> None:
    session = load("qwen2vl").session(EVICTED)
    reply = session.chat(TALK, max_tokens=5)
    s = reply.stats
    assert reply.finish_reason == s.finish_reason
    assert reply.usage == foveal.Usage(s.prompt_tokens, s.image_tokens, s.cached_tokens, s.completion_tokens)
    assert reply.timings.prefill == s.ms.prefill > 0
    assert reply.kv.stats.budget_rows == 40
    assert reply.kv.heatmap().shape == Image.open(PICTURE).size[::-1]
    assert len(reply.kv.text_shares()) + s.image_tokens == len(reply.kv.tokens)
    page = reply.kv.to_html()
    assert page == reply.kv._repr_html_()
    assert "data:image/png;base64," in page and "http" not in page
    assert Image.open(__import__("io").BytesIO(reply.kv.overlay())).size == Image.open(PICTURE).size
    json.dumps(reply.kv.stats)
    with pytest.raises(foveal.ArgumentError, match="image_index"):
        reply.kv.heatmap(1)


def test_to_original() -> None:
    model = load("qwen25vl")
    plan = model._native.plan_image(640, 480)["resized"]
    assert model.to_original(plan, (640, 480)) == (640, 480)
    assert model.to_original((plan[0] / 2, 0, plan[0], plan[1] / 4), (640, 480)) == (320, 0, 640, 120)
    assert load("qwen2vl").to_original((500, 250), (640, 480)) == (320, 120)
    assert load("internvl3").to_original((0, 0, 1000, 1000), (300, 200)) == (0, 0, 300, 200)
    assert load("llava15").to_original((0.5, 0.5), (300, 200), "unit") == (150, 100)
    with pytest.raises(foveal.ArgumentError, match="settled"):
        load("llava15").to_original((1, 2), (300, 200))
