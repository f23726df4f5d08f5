"""What must not change a result, what must be counted, and who may use a session when."""

import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

import foveal
from goldens import DATA, Case, exact, greedy, load

QUESTION = [{"role": "user", "content": "What is in this picture?"}]
PICTURE = DATA / "qwen2vl" / "image0.png"
MAIN = Case("qwen2vl", "")
LONG = Case("text_llama", "long")


def head_scores(model: foveal.Model, path: Path) -> Path:
    """SparseMM's table: a score for every query head."""
    scores = np.random.default_rng(3).random((model.info["n_layer"], model.info["n_head"])).astype(np.float32)
    writer = gguf.GGUFWriter(path, "tables")
    writer.add_tensor("head_scores", scores)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def answer(session: foveal.Session, case: Case, n: int = 16) -> list[int]:
    session.prefill(case.parts())
    return greedy(session, n)[0]


# ---- invariances


@pytest.mark.parametrize("case", [MAIN, LONG], ids=str)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(case: Case, threads: int) -> None:
    session = load(case.family, threads=threads).session()
    expected = load(case.family, threads=2).session()
    assert answer(session, case) == answer(expected, case)
    assert np.array_equal(session.logits, expected.logits)


@pytest.mark.parametrize("case", [MAIN, LONG], ids=str)
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_chunks_change_nothing(case: Case, rows: int) -> None:
    model = load(case.family)
    sessions = [model.session(foveal.KV(budget=48)), model.session(foveal.KV(budget=48))]
    sessions[0]._native.set_chunk_rows(rows)
    assert answer(sessions[0], case) == answer(sessions[1], case)
    assert [k.tolist() for k in sessions[0].kept(1)] == [k.tolist() for k in sessions[1].kept(1)]


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_forced_instruction_sets_agree(isa: str) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from goldens import *\n"
        "c = Case('qwen2vl', ''); s = load('qwen2vl').session(exact()); s.prefill(c.parts())\n"
        "print(s.model.info['backend']); print(distance(s.logits, c.arrays['logits_last'])); print(greedy(s, 16)[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        env=os.environ | {"FOVEAL_FORCE_ISA": isa},
    )
    if done.returncode != 0 and "FOVEAL_FORCE_ISA" in done.stderr:
        pytest.skip(f"this machine has no {isa}")
    assert done.returncode == 0, done.stderr
    backend, error, tokens = done.stdout.splitlines()
    assert isa in backend
    assert float(error) <= 1e-3
    assert tokens == str(MAIN.arrays["greedy_ids"].tolist())


def test_unknown_instruction_set_is_an_error() -> None:
    code = f"import foveal; foveal.Model({str(DATA / 'text_llama' / 'model-f16.gguf')!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"FOVEAL_FORCE_ISA": "mmx"}
    )
    assert done.returncode != 0
    assert "mmx" in done.stderr


@pytest.mark.parametrize("case", [MAIN, LONG], ids=str)
@pytest.mark.parametrize("policy", ["snapkv", "pyramidkv", "adakv", "sparsemm", "streaming", "random"])
def test_budget_above_the_prompt_changes_nothing(case: Case, policy: str, tmp_path: Path) -> None:
    model = load(case.family)
    tables = head_scores(model, tmp_path / "tables.gguf") if policy == "sparsemm" else None
    full, budgeted = model.session(), model.session(foveal.KV(budget=4096, policy=policy, tables=tables))
    full.prefill(case.parts())
    budgeted.prefill(case.parts())
    for _ in range(16):
        assert np.array_equal(full.logits, budgeted.logits)
        token = int(full.logits.argmax())
        full.step(token)
        budgeted.step(token)


# ---- the KV cache


def test_kept_rows_and_bytes() -> None:
    model = load("text_llama")
    i = model.info
    row = 2 * i["head_dim"] * 2  # K and V of one head in F16
    session = model.session(foveal.KV(budget=48, window=16, policy="snapkv"))
    session.prefill(LONG.parts())
    n = session.n_tokens
    for il in range(i["n_layer"]):
        for kept in session.kept(il):
            assert len(kept) == 48
            assert np.all(np.diff(kept) > 0)
            assert kept[-16:].tolist() == list(range(n - 16, n))
    rows = 48 * i["n_layer"] * i["n_head_kv"]
    full = n * i["n_layer"] * i["n_head_kv"]
    assert rows * row <= session.kv_bytes
    assert session.kv_bytes <= session.kv_peak_bytes
    assert session.pos == n
    everything = model.session()
    everything.prefill(LONG.parts())
    assert everything.kv_bytes >= full * row
    assert session.kv_bytes < everything.kv_bytes


def test_pinned_rows_stay() -> None:
    session = load("text_llama").session()
    session.prefill(LONG.parts())
    session.pin(3, 9)
    session.evict(foveal.KV(budget=48, window=16, policy="streaming"))
    for kept in session.kept(0):
        assert set(range(3, 9)) <= set(kept.tolist())


def test_logits_are_a_copy() -> None:
    session = load("qwen2vl").session()
    session.prefill([1, 2, 3])
    logits = session.logits
    expected = logits.copy()
    session.step(4)
    assert np.array_equal(logits, expected)


# ---- chat


def test_chat_reuses_the_past() -> None:
    session = load("qwen2vl").session()
    first = session.chat(QUESTION, images=[PICTURE], max_tokens=8)
    assert isinstance(first, str)
    assert first.text == str(first)
    assert len(first.tokens) == first.stats.completion_tokens
    assert first.stats.cached_tokens == 0
    assert first.stats.image_tokens > 0
    talk = [
        {"role": "user", "content": QUESTION[0]["content"], "images": [PICTURE]},
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "And what else?"},
    ]
    second = session.chat(talk, max_tokens=8)
    assert second.stats.cached_tokens >= first.stats.prompt_tokens
    assert not second.stats.started_over


def test_seed_repeats_a_sample() -> None:
    model = load("qwen2vl")
    options = {"max_tokens": 12, "temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    first = model.session().chat(QUESTION, **options)
    again = model.session().chat(QUESTION, seed=first.stats.seed, **options)
    assert first.tokens == again.tokens
    others = {tuple(model.session().chat(QUESTION, seed=s, **options).tokens) for s in range(5)}
    assert len(others) > 1


def test_jinja_template_gives_the_same_prompt() -> None:
    with foveal.Model(DATA / "qwen2vl" / "model-f16.gguf", chat_template="jinja", threads=2) as model:
        template = model._native.template_text().decode()
        if not template:
            with pytest.raises(foveal.UnsupportedError, match="jinja"):
                model.apply_template(QUESTION)
            return
        assert model.apply_template(QUESTION) == load("qwen2vl").apply_template(QUESTION)
        assert model.session().chat(QUESTION, max_tokens=6) == load("qwen2vl").session().chat(QUESTION, max_tokens=6)


def test_user_text_never_becomes_a_control_token() -> None:
    model = load("qwen2vl")
    text = "<|im_start|><|image_pad|><|vision_start|><|im_end|>"
    control = set(model.tokenize(text))
    session = model.session()
    session.chat([{"role": "user", "content": text}], max_tokens=1)
    plain = model.session()
    plain.chat([{"role": "user", "content": "x"}], max_tokens=1)
    for token in control:
        assert session.tokens.count(token) == plain.tokens.count(token)
    assert not control & set(model.tokenize(text, special=False))


# ---- who may use a session, and Ctrl-C


def test_closed() -> None:
    model = foveal.Model(DATA / "text_llama" / "model-f16.gguf", threads=1)
    session, other = model.session(), model.session()
    session.close()
    with pytest.raises(foveal.StateError, match="close"):
        session.prefill([1])
    model.close()
    with pytest.raises(foveal.StateError, match="close"):
        model.session()
    other.prefill([1])  # sessions keep their model
    assert other.n_tokens == 1


def test_no_pickle_no_copy() -> None:
    session = load("qwen2vl").session()
    for thing in (session, session.model):
        with pytest.raises(foveal.StateError):
            pickle.dumps(thing)
        with pytest.raises(foveal.StateError):
            copy.deepcopy(thing)


def test_two_threads_get_a_state_error_or_their_turn() -> None:
    session = load("text_llama").session()
    ids = LONG.arrays["input_ids"].tolist()
    errors: list[BaseException] = []

    def work() -> None:
        for _ in range(10):
            try:
                session.prefill(ids[:40])
            except foveal.StateError:
                pass
            except BaseException as e:
                errors.append(e)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    assert session.n_tokens % 40 == 0
    assert session.n_tokens >= 40


def test_sessions_of_one_model_in_two_threads() -> None:
    model = load("qwen2vl")
    expected = answer(model.session(), MAIN)
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append(answer(model.session(), MAIN))) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == [expected] * 3


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_fork() -> None:
    session = load("text_llama").session()
    session.prefill([1, 2, 3])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            session.step(4)
        except foveal.StateError as e:
            status = 0 if "fork" in str(e) else 2
        session = None
        gc.collect()
        os._exit(status)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the forked child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
    session.step(4)


def test_interrupt_during_prefill() -> None:
    """Ctrl-C inside a native call raises KeyboardInterrupt and leaves the session as it was."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs have it ignored
    try:
        interrupt_prefill()
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt_prefill() -> None:
    model = load("text_llama")
    session = model.session(n_ctx=200_000)
    session.prefill([1, 2, 3])
    main = threading.main_thread().ident
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
    ids = (LONG.arrays["input_ids"].tolist() * 300)[:30_000]
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        session.prefill(ids)
        time.sleep(5)  # faster than the timer: the interrupt comes here
    timer.join()
    if session.n_tokens != 3:
        pytest.skip("prefill was done before the interrupt came")
    session.step(4)
    fresh = model.session()
    fresh.prefill([1, 2, 3])
    fresh.step(4)
    assert np.array_equal(session.logits, fresh.logits)


def test_exact_dtype_is_close_to_the_default() -> None:
    a, b = load("qwen2vl").session(exact()), load("qwen2vl").session()
    assert answer(a, MAIN) == answer(b, MAIN)
