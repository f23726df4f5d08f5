"""A thousand turns in one session: the bound holds, positions count on, memory doesn't grow."""

import gc
import os

import numpy as np

import foveal
from goldens import load

TURNS = int(os.environ.get("FOVEAL_SOAK_TURNS", "1000"))
# Bytes outside of the KV store, as docs/kv.md states them.
PER_TOKEN, PER_TURN, PER_PICTURE = 40, 96, 1024


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_thousand_turns() -> None:
    model = load("qwen2vl")
    heads, layers = model.info["n_head_kv"], model.info["n_layer"]
    kv = foveal.KV(budget=48, window=16, slack=8, on_full="evict", policy="snapkv")
    session = model.session(kv, n_ctx=256)
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 255, (56, 56, 3), dtype=np.uint8) for _ in range(3)]
    points: list[tuple[int, int]] = []
    position = images = 0
    for turn in range(TURNS):
        ids = [int(i) for i in rng.integers(3, 200, 6)]
        tokens, before = session.n_tokens, session.pos
        if turn % 5 == 0:
            session.prefill([pictures[turn // 5 % 3], *ids])
            images += 1
        else:
            session.prefill(ids)
            assert session.pos == before + len(ids)
        position += session.pos - before
        for _ in range(3):
            session.step(int(session.logits.argmax()))
        position += 3
        assert session.pos == position
        assert session.n_tokens > tokens
        if turn % 10 == 0:
            for il in range(layers):
                assert all(len(k) <= 48 + 8 for k in session.kept(il))
            assert session.kv_bytes <= heads * layers * (56 * (4 * model.info["head_dim"] + 4) + 3 * 4096)
        if turn % 20 == 0 and turn >= TURNS // 5:
            gc.collect()
            stated = PER_TOKEN * session.n_tokens + PER_TURN * turn + PER_PICTURE * images
            points.append((turn, resident() - stated))
    turns, bytes_ = np.array(points, float).T
    slope = np.polyfit(turns, bytes_, 1)[0]
    print(f"{TURNS} turns, {session.n_tokens} tokens, {images} pictures: {slope:.0f} bytes a turn beyond the stated")
    assert slope < 1024
