"""The guarantees of the KV cache (docs/kv.md) after every step of random sequences of operations, on every family.

FOVEAL_EXAMPLES and FOVEAL_STEPS make the sequences more and longer: the heavy profile is 150 and 40."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from PIL import Image

import foveal
from goldens import DATA, load

FAMILIES = {  # and a small picture of each
    "qwen2vl": "image1.png",
    "qwen25vl": "image1.png",
    "qwen3vl": "image1.png",
    "gemma3": "image1.png",
    "internvl3": "image2.png",
    "llava15": "image1.png",
    "llavanext": "image2.png",
    "smolvlm": "image1.png",
    "text_gemma3_text": "",
    "text_llama": "",
    "text_mistral": "",
    "text_qwen2": "",
    "text_qwen3": "",
}
EVERYTHING = 100_000  # rows: a budget that covers all that is ever seen here
PAGE = 4096
WINDOW, SLACK = 8, 6

ROWS = st.integers(WINDOW + 20, 90)
OPTIONS = st.fixed_dictionaries(
    {
        "budget": st.one_of(ROWS, st.sampled_from(["30%", "150KiB", "auto"])),
        "policy": st.sampled_from(["snapkv", "pyramidkv", "adakv", "streaming", "random"]),
        "mix": st.sampled_from(["none", "fixed", "mixkv", "sharp"]),
        "sinks": st.integers(0, 3),
        "scope": st.sampled_from(["prompt", "prompt", "image"]),
        "dtype": st.sampled_from(["f16", "f16", "q8_0"]),
    }
)


class Watch:
    """A session beside what it must keep to."""

    def __init__(self, family: str, kv: foveal.KV) -> None:
        self.family, self.kv, self.model = family, kv, load(family)
        i = self.model.info
        self.heads, self.head_dim = i["n_head_kv"], i["head_dim"]
        self.sliding = [il for il, rows in enumerate(i["sliding_window"]) if rows]
        self.evictable = [il for il, rows in enumerate(i["sliding_window"]) if not rows]
        self.session = self.model.session(kv, n_ctx=600)
        self.pinned: dict[tuple[int, int], set[int]] = {}  # per layer and head: pinned rows that were held then
        self.by_hand = False
        self.before: list[list[object]] = []  # the state in front of each turn

    def ids(self, n: int) -> list[int]:
        return [3 + (7 * k + 11 * self.session.n_tokens) % 200 for k in range(n)]

    def picture(self) -> list[Path]:
        return [DATA / self.family / FAMILIES[self.family]] if FAMILIES[self.family] else []

    def protected(self) -> set[int]:
        s = self.session
        rows = set(range(min(self.kv.sinks, s.n_tokens)))
        if self.kv.scope == "image":
            rows |= {i for i, token in enumerate(s.tokens) if token >= 0}
        return rows

    def pin(self, start: int, stop: int) -> None:
        self.session.pin(start, stop)
        for il in self.evictable:
            for ih, rows in enumerate(self.session.kept(il)):
                held = self.pinned.setdefault((il, ih), set())
                held |= set(range(start, stop)) & set(rows.tolist())

    def turn(self, parts: list[object]) -> None:
        before = state(self.session)
        self.session.prefill(parts)
        self.before.append(before)

    def do_text(self, n: int, _: Path) -> None:
        self.turn(self.ids(n))

    def do_image(self, n: int, _: Path) -> None:
        self.turn([*self.picture(), *self.ids(n)])

    def do_decode(self, n: int, _: Path) -> None:
        for k in range(n):
            self.session.step(3 + (5 * k + self.session.n_tokens) % 200)
            self.check()

    def do_fork(self, _: int, __: Path) -> None:
        parent, before = self.session, state(self.session)
        child = parent.fork()
        assert state(child) == before
        try:
            parent.prefill(self.ids(4))
        except foveal.ContextFull:
            pass
        assert state(child) == before
        self.session = child

    def do_save(self, _: int, folder: Path) -> None:
        self.session.save(folder / "a.kv")
        back = self.model.load_session(folder / "a.kv")
        assert back.kv == self.session.kv  # G9
        assert state(back) == state(self.session)
        assert back.kv_stats().budget_rows == self.session.kv_stats().budget_rows
        self.session = back

    def do_pin(self, n: int, _: Path) -> None:
        self.pin(n, min(self.session.n_tokens, n + 3))

    def do_refresh(self, _: int, __: Path) -> None:
        before = state(self.session)
        self.session.refresh(0)
        self.before.append(before)

    def do_evict(self, n: int, _: Path) -> None:
        budget = WINDOW + 70 + n if self.kv.budget not in (None, EVERYTHING) else EVERYTHING
        self.session.evict(foveal.KV(budget=budget, window=WINDOW, sinks=self.kv.sinks, scope=self.kv.scope))
        self.by_hand = True

    def do_undo(self, _: int, __: Path) -> None:
        rows = self.session.n_tokens
        undone = self.session.undo()
        before = self.before.pop()
        n = self.session.n_tokens
        assert undone.rows == rows - n
        assert state(self.session)[:2] == before[:2]
        if not (undone.replayed and (self.by_hand or self.pinned)):
            assert same(state(self.session), before)
        self.pinned = {k: {i for i in held if i < n} for k, held in self.pinned.items()}
        if undone.replayed:
            self.by_hand = False

    def all_kept(self) -> list[list[int]]:
        return [rows.tolist() for il in self.evictable for rows in self.session.kept(il)]

    def check(self) -> None:
        s, n, protected = self.session, self.session.n_tokens, self.protected()
        budget = s.kv_stats().budget_rows
        always = WINDOW + len(protected | set().union(*self.pinned.values()))
        per_head = max(budget, always) + SLACK
        total = pages = 0
        row = {"f16": 2 * self.head_dim, "q8_0": self.head_dim // 32 * 34}[self.kv.dtype]
        for il in range(self.model.info["n_layer"]):
            kept = s.kept(il)
            for ih, rows in enumerate(kept):
                assert np.all(np.diff(rows) > 0)
                assert rows.size == 0 or (rows[0] >= 0 and rows[-1] == n - 1)  # G4: true indices
                pages += 2 * -(-rows.size * row // PAGE) + -(-rows.size * 4 // PAGE)
                if il in self.sliding:
                    continue
                held = set(rows.tolist())
                assert protected <= held  # G5
                assert self.pinned.get((il, ih), set()) <= held
                assert set(range(max(0, n - WINDOW), n)) <= held
            if il in self.sliding:
                continue
            layer = sum(rows.size for rows in kept)
            total += layer
            if budget >= 0 and self.kv.policy != "pyramidkv":  # G2: each layer
                assert layer <= self.heads * per_head + self.heads // 2
        layers = len(self.evictable)
        if budget >= 0:  # G2: all layers (pyramidkv gives to early ones what late ones lack)
            assert total <= layers * self.heads * (per_head + max(0.5, (layers - 1) / 2))
        # G3: whole pages of the rows held, and nothing else; a layer with a sliding window may keep 64 rows more
        spare = len(self.sliding) * self.heads * 3 * -(-64 * row // PAGE)
        assert pages * PAGE <= s.kv_bytes <= (pages + spare) * PAGE
        assert s.kv_bytes <= s.kv_peak_bytes
        assert len(s.tokens) == n


def state(s: foveal.Session) -> list[object]:
    """All that a session shows."""
    kept = [[k.tolist() for k in s.kept(il)] for il in range(s.model.info["n_layer"])]
    try:
        logits = s.logits.tobytes()
    except foveal.StateError:  # empty, or cut without a replay: the next prefill gives them
        logits = b""
    return [s.tokens, s.pos, kept, logits]


def same(a: list[object], b: list[object]) -> bool:
    return a[:3] == b[:3] and (a[3] == b[3] or b"" in (a[3], b[3]))


class Guarantees(RuleBasedStateMachine):
    """Three sessions do the same: with a budget that bites, with one that covers everything, and with none."""

    family = ""

    @initialize(options=OPTIONS, wide=st.sampled_from(["snapkv", "pyramidkv", "adakv", "streaming", "random"]))
    def begin(self, options: dict[str, object], wide: str) -> None:
        if options["dtype"] == "q8_0" and load(self.family).info["head_dim"] % 32:
            options = options | {"dtype": "f16"}
        if not FAMILIES[self.family] and options["scope"] == "image":
            options = options | {"scope": "prompt"}
        common = {"window": WINDOW, "slack": SLACK}
        dtype = options["dtype"]
        self.kvs = (
            foveal.KV(**common, **options),
            foveal.KV(**common, budget=EVERYTHING, policy=wide, mix=options["mix"], dtype=dtype),
            foveal.KV(**common, dtype=dtype),
        )
        self.watches = [Watch(self.family, kv) for kv in self.kvs]
        self.log: list[tuple[str, int]] = []
        self.folder = tempfile.TemporaryDirectory()

    def perform(self, name: str, n: int) -> None:
        self.log.append((name, n))
        folder = Path(self.folder.name)
        perform(self.watches[0], name, n, folder)
        refused = perform(self.watches[1], name, n, folder)
        if refused and name == "undo" and self.watches[2].session.n_tokens:
            return  # with a budget the second undo reads again, for which a loaded session lacks its pictures
        assert perform(self.watches[2], name, n, folder) == refused

    @rule(n=st.integers(1, 70))
    def text(self, n: int) -> None:
        self.perform("text", n)

    @rule(n=st.integers(1, 10))
    def image(self, n: int) -> None:
        self.perform("image", n)

    @rule(n=st.integers(1, 25))
    def decode(self, n: int) -> None:
        self.perform("decode", n)

    @rule()
    def fork(self) -> None:
        self.perform("fork", 0)

    @rule()
    def save_and_load(self) -> None:
        self.perform("save", 0)

    @rule()
    def undo(self) -> None:
        self.perform("undo", 0)

    @rule(n=st.integers(0, 30))
    def pin(self, n: int) -> None:
        self.perform("pin", n)

    @rule()
    def refresh(self) -> None:
        self.perform("refresh", 0)

    @rule(n=st.integers(0, 30))
    def evict(self, n: int) -> None:
        self.perform("evict", n)

    @invariant()
    def hold(self) -> None:
        for w in getattr(self, "watches", []):
            w.check()
        if hasattr(self, "watches"):  # G1: what covers everything changes no bit
            assert same(state(self.watches[1].session), state(self.watches[2].session))
            assert all(set(rows) == set(range(self.watches[2].session.n_tokens)) for rows in self.watches[2].all_kept())

    def teardown(self) -> None:
        if not hasattr(self, "watches"):
            return
        again = Watch(self.family, self.kvs[0])  # G6
        for name, n in self.log:
            perform(again, name, n, Path(self.folder.name))
        assert state(again.session) == state(self.watches[0].session)
        self.folder.cleanup()


def perform(w: Watch, name: str, n: int, folder: Path) -> bool:
    """Does it; true when it was refused, which must have changed nothing (G7)."""
    session, before = w.session, state(w.session)
    try:
        getattr(w, "do_" + name)(n, folder)
        return False
    except (foveal.ArgumentError, foveal.ContextFull, foveal.StateError):
        if name != "decode":  # steps before the refused one stay
            assert w.session is session
            assert state(session) == before
        return True


@pytest.mark.parametrize("family", FAMILIES)
def test_guarantees_hold_after_every_operation(family: str) -> None:
    machine = type("GuaranteesOf_" + family, (Guarantees,), {"family": family})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("FOVEAL_EXAMPLES", "10")),
            stateful_step_count=int(os.environ.get("FOVEAL_STEPS", "12")),
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        ),
    )


def test_another_picture_under_the_same_name_is_another_picture(tmp_path: Path) -> None:
    """G8: identity is the pixels."""
    model = load("qwen2vl")
    session = model.session(foveal.KV(dtype="f32"))
    rng = np.random.default_rng(1)
    path = tmp_path / "frame.png"
    logits = []
    for _ in range(2):
        Image.fromarray(rng.integers(0, 255, (56, 56, 3), dtype=np.uint8)).save(path)
        with model.session(foveal.KV(dtype="f32")) as fresh:
            fresh.chat("What is it?", images=[path], max_tokens=1)
            reply = session.chat("What is it?", images=[path], max_tokens=1)
            assert reply.stats.cached_tokens <= session.tokens.index(-1)  # what stands before the picture
            assert np.array_equal(session.logits, fresh.logits)
            logits.append(session.logits)
    assert not np.array_equal(*logits)
