"""The evaluation's arithmetic and promises on a tiny model; never how good a model is."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import foveal
from foveal.cli.harness import harness
from goldens import DATA

FOLDER = DATA / "qwen2vl"
MODEL, MMPROJ = FOLDER / "model-f16.gguf", FOLDER / "mmproj-f16.gguf"
arms, items, measure, run = harness("arms"), harness("items"), harness("measure"), harness("run")
stats, store, summary, table, text_items = (
    harness(name) for name in ("stats", "store", "summary", "table", "text_items")
)
KEEP = arms.Keep(16)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Three questions on one picture, one on another."""
    rows = [
        {"image": str(FOLDER / "image0.png"), "question": "What is it?", "answers": ["a", "b"], "max_tokens": 6},
        {"image": str(FOLDER / "image0.png"), "question": "And here?", "answer": "a", "max_tokens": 6},
        {"image": str(FOLDER / "image0.png"), "question": "Again?", "answer": "a", "match": "contains"},
        {"image": str(FOLDER / "image1.png"), "question": "And this?", "answer": "b", "box": [0, 0, 20, 20]},
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture(scope="module")
def model() -> foveal.Model:
    return foveal.Model(MODEL, mmproj=MMPROJ, threads=1)


def some_arms(*budgets: str) -> list:
    return arms.grid(["full", "random", "streaming", "snapkv", "pyramidkv", "adakv"], ["none", "mixkv"], budgets, False)


def test_intervals_of_known_differences() -> None:
    a = {"x": np.array([1.0, 1, 0, 1]), "y": np.array([0.0, 1])}
    assert stats.paired_interval(a, a) == (0, 0, 0)
    b = {t: v - 0.25 for t, v in a.items()}
    d, low, high = stats.paired_interval(a, b)
    assert (d, low, high) == pytest.approx((0.25, 0.25, 0.25))
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, 400)
    d, low, high = stats.paired_interval({"x": a["x"].repeat(100) + noise}, {"x": a["x"].repeat(100)})
    assert high - low == pytest.approx(2 * 1.96 * noise.std() / 20, rel=0.05)  # the normal interval
    assert low < d < high


def test_tasks_weigh_the_same() -> None:
    assert stats.mean({"x": np.ones(10), "y": np.zeros(1000)}) == 0.5


def test_mcnemar_is_the_binomial_test() -> None:
    a, b = np.array([1] * 10 + [0, 1.0]), np.array([0] * 10 + [0, 1.0])
    assert stats.mcnemar(a, b) == pytest.approx(2 / 2**10)
    assert stats.mcnemar(b, a) == stats.mcnemar(a, b)
    assert stats.mcnemar(a, a) == 1


@pytest.mark.parametrize("protocol", ["inside", "after"])
def test_a_budget_that_covers_all_changes_nothing(model: foveal.Model, questions: Path, protocol: str) -> None:
    for make in items.own_items(str(questions), 2):
        item = make()
        result = measure.measure(model, item, some_arms("4096"), protocol, KEEP, False)
        assert len(result["cells"]) == 9
        for cell in result["cells"].values():
            assert cell["rows"] == result["n"]
            assert len(cell["answers"]) == (len(item.questions) if protocol == "after" else 1)
            for a in cell["answers"]:
                assert (a["kl"], a["same"]) == (0, 1)
                assert a["nll"] == result["cells"]["full/none/all"]["answers"][cell["answers"].index(a)]["nll"]


@pytest.mark.parametrize("keep", [KEEP, arms.Keep(12, sinks=4)], ids=["no sinks", "sinks"])
@pytest.mark.parametrize("protocol", ["inside", "after"])
def test_arms_hold_the_same_rows_and_those_of_a_real_session(
    model: foveal.Model, questions: Path, protocol: str, keep: arms.Keep
) -> None:
    item = items.own_items(str(questions), 2)[0]()
    result = measure.measure(model, item, some_arms("24", "50%"), protocol, keep, True)
    for name, cell in result["cells"].items():
        budget = name.split("/")[2]
        rows = {"all": result["n"], "24": 24, "50%": max(17, -(-result["n"] // 2))}[budget]
        assert cell["rows"] <= rows + 0.05
        assert cell["peak"] >= cell["bytes"]
        if name.split("/")[0] in ("random", "streaming", "snapkv"):
            assert cell["rows"] == min(rows, result["n"])
            assert cell["bytes"] == result["cells"][f"random/none/{budget}"]["bytes"]
        if budget != "all":
            assert cell["as_in_prefill"] == 1


def test_sinks_are_kept_by_every_arm(model: foveal.Model, questions: Path) -> None:
    item = items.own_items(str(questions), 1)[0]()
    with model.session(foveal.KV(dtype="f32")) as whole:
        whole.prefill(measure.Frame(model, item).head)
        for arm in some_arms("24")[1:]:
            copy, stats, _, _ = measure.evict(whole, arm, 24, arms.Keep(8, sinks=3))
            assert stats.rows_mean <= 24.05
            for layer in range(model.info["n_layer"]):
                assert all(list(kept[:3]) == [0, 1, 2] for kept in copy.kept(layer))
            copy.close()


def test_divergence_is_that_of_the_distributions(model: foveal.Model, questions: Path) -> None:
    """KL and NLL of one arm against logits stepped by hand."""
    item = items.own_items(str(questions), 1)[0]()
    arm = arms.Arm("snapkv", "none", "20")
    result = measure.measure(model, item, [arms.Arm("full", "none", "all"), arm], "inside", arms.Keep(8), False)
    frame = measure.Frame(model, item)
    parts = frame.head + frame.question(item.questions[0])
    whole, kept = model.session(foveal.KV(dtype="f32")), model.session(foveal.KV(20, "snapkv", "none", 8, dtype="f32"))
    kl, nll = [], []
    for s in (whole, kept):
        s.prefill(parts)
    for i in range(item.max_tokens):
        p, q = (np.exp(s.logits.astype(float) - s.logits.max()) for s in (whole, kept))
        p, q = p / p.sum(), q / q.sum()
        token = int(p.argmax())
        if i > 0:  # the first comes out of the prefill, before any row goes
            kl.append((p * np.log(p / q)).sum())
            nll.append(-np.log(q[token]))
        else:
            assert np.array_equal(p, q)
        if model.tokenizer.is_eog(token):
            break
        for s in (whole, kept):
            s.step(token)
    cell = result["cells"][arm.id]["answers"][0]
    assert cell["kl"] == pytest.approx(np.mean(kl), rel=1e-6)
    assert cell["nll"] == pytest.approx(np.mean(nll), rel=1e-6)


def options(questions: Path, out: Path, **other: object) -> object:
    values = {
        "model": str(MODEL), "mmproj": str(MMPROJ), "output": str(out), "data": str(questions), "count": 2,
        "policies": ["full", "random", "snapkv"], "mixes": ["none", "mixkv"], "budgets": ["24"],
        "protocols": ["inside", "after"], "window": 16, "check": 0,
    }  # fmt: skip
    return run.Options(**(values | other))


def without_times(results: list) -> str:
    text = json.dumps(results, sort_keys=True)
    assert '"evict_ms"' in text
    for r in results:
        for cell in r["cells"].values():
            cell["evict_ms"] = 0
            for a in cell["answers"]:
                a["ms"] = 0
    return json.dumps(sorted(results, key=lambda r: (r["key"], r["protocol"])), sort_keys=True)


def test_an_interrupted_run_goes_on(questions: Path, tmp_path: Path) -> None:
    def go(out: Path, **other: object) -> list:
        run.run(options(questions, out, **other), 1, None, None, lambda what, share: None)
        return [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()[1:]]

    whole = go(tmp_path / "whole")
    assert len(whole) == 4
    part = tmp_path / "part"
    part.mkdir()
    lines = (tmp_path / "whole" / "items.jsonl").read_bytes().splitlines(keepends=True)
    marked = json.loads(lines[1])
    marked["cells"]["full/none/all"]["evict_ms"] = -1.0  # told from a fresh measurement
    (part / "items.jsonl").write_bytes(lines[0] + json.dumps(marked).encode() + b"\n" + lines[2][:40])
    resumed = go(part)
    assert resumed[0]["cells"]["full/none/all"]["evict_ms"] == -1
    assert without_times(resumed) == without_times(whole)
    assert len(go(part, protocols=["after"])) == 4  # kept, but not in the table
    assert list(json.loads((part / "results.json").read_text())["protocols"]) == ["after"]
    with pytest.raises(foveal.ArgumentError, match="other settings"):
        go(part, budgets=["25"])


def test_the_command_writes_everything(questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "foveal", "evaluate", "-m", MODEL, "--mmproj", MMPROJ, "--data", questions, "-o", out,
         "--policies", "full,random,snapkv,adakv", "--mixes", "none,mixkv,sharp", "--budgets", "24,50%",
         "--kv-window", "16", "--kv-sinks", "2", "--jobs", "2", "--check", "1"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (out / "table.md").read_text().strip()
    assert "foveal evaluate -m model-f16.gguf" in done.stdout
    assert "window 16, 2 first rows kept" in done.stdout
    assert "14 of 14 checks" in done.stdout
    assert "| policy | mix | 24 | 50% |" in done.stdout
    assert "KL against mixkv" in done.stdout
    assert (out / "plot.svg").read_text().startswith("<svg")
    rows = json.loads((out / "results.json").read_text())["protocols"]["after"]
    assert [(r["policy"], r["mix"], r["budget"]) for r in rows[:5]] == [
        ("full", "none", "all"), ("random", "none", "24"), ("snapkv", "none", "24"), ("snapkv", "mixkv", "24"),
        ("snapkv", "sharp", "24"),
    ]  # fmt: skip
    assert rows[0]["questions"] == 3  # two on the first picture, one on the second
    assert rows[3]["base"]["right"][0] == pytest.approx(rows[3]["mean"] - rows[2]["mean"])
    assert rows[4]["mixkv"]["kl"][0] == pytest.approx(rows[4]["kl"] - rows[3]["kl"])
    assert "mixkv" not in rows[3]


def test_intervals_are_bold_when_they_exclude_zero() -> None:
    assert table.interval((0.1, 0.02, 0.2)) == "**+10.0 [+2.0, +20.0]**"
    assert table.interval((-0.1, -0.3, -0.01)).startswith("**")
    assert table.interval((0.1, 0.0, 0.2)) == "+10.0 [+0.0, +20.0]"


def test_all_budgets_stand_side_by_side() -> None:
    def row(policy: str, mix: str, budget: str, **other: object) -> dict:
        return {"policy": policy, "mix": mix, "budget": budget, "mean": 0.5, "kl": 0.25, **other}

    def base(low: float, high: float) -> dict:
        return {"right": (0, low, high), "kl": (0, -high, -low)}

    full = row("full", "none", "all")
    rows = [row("random", "none", "64"), row("snapkv", "mixkv", "64", base=base(0.1, 0.2)),
            row("snapkv", "mixkv", "5%", base=base(-0.2, -0.1)), row("snapkv", "sharp", "5%", base=base(-0.1, 0.2)),
            ]  # fmt: skip
    for judged, cells in {True: ("50.0", " / 0.250"), False: ("0.250", "")}.items():
        value, rest = cells
        assert table.overview([full, *rows], full, judged).split("\n")[-3:] == [
            f"| random |  | {value}{rest} |  |",
            f"| snapkv | mixkv | **{value}**{rest} | *{value}*{rest} |",
            f"| snapkv | sharp |  | {value}{rest} |",
        ]


def test_needles_stand_in_the_text_and_repeat() -> None:
    tokenizer = foveal.Tokenizer(str(MODEL))
    for task in text_items.TASKS:
        makers = text_items.text_items(task, 3, [300, 600], lambda t: tokenizer.encode(t, False), tokenizer.decode)
        assert len(makers) == 6
        for i, make in enumerate(makers):
            item, length = make(), (300, 600)[i // 3]
            assert (item.task, item.key) == (f"{task}-{length}", f"{task}-{i % 3}")
            assert item == make() or [q.text for q in item.questions] == [q.text for q in make().questions]
            n = len(tokenizer.encode(item.context[0], False))
            assert length * 0.9 < n < length * 1.1 + 400
            if task != "prose":
                q = item.questions[0]
                assert f"is {q.answer}." in item.context[0]
                assert q.right(f"It is {q.answer}.")
                assert not q.right("It is 12.")
            assert item.context[0].count("The secret number") == {"needle": 1, "multikey": 8, "prose": 0}[task]


def test_where_nothing_is_right_only_divergence_counts(questions: Path, tmp_path: Path) -> None:
    def rows(*tasks: str) -> list:
        o = options(questions, tmp_path / "-".join(tasks), data=None, text=list(tasks), lengths=[120, 150], count=1)
        return run.run(o, 1, None, None, lambda what, share: None)["inside"]

    for row in rows("needle", "prose"):
        assert list(row["accuracy"]) == ["needle-120", "needle-150"]
        assert row["mean"] == sum(row["accuracy"].values()) / 2
        assert row["items"] == {"needle-120": 1, "prose-120": 1, "needle-150": 1, "prose-150": 1}
    alone = rows("prose")
    assert all(row["accuracy"] == {} and row["mean"] is None and row["kl"] >= 0 for row in alone)
    text = (tmp_path / "prose" / "table.md").read_text()
    assert "| KL prose-120 | KL prose-150 | KL |" in text and "mean" not in text.split("| policy", 1)[1]
    assert "KL to the whole cache" in (tmp_path / "prose" / "plot.svg").read_text()


def test_rows_of_a_needle_are_counted_in_thirds_of_the_layers() -> None:
    needles, window = harness("needles"), harness("needles").WINDOW
    n = 100 + window
    kept = [[np.array([0, 98, 99, 100]), np.array([10, 11])]] + [[np.array([10])] * 2] * 4  # layers 0 and 1 to 4
    newest, *thirds = needles.shares(kept, np.array([10, 11]), n, 3)
    assert newest == pytest.approx((2 / 3) / 10)  # one head of ten has two of its three within the newest 3
    assert thirds == pytest.approx([(0.5 + 0.5) / 2, 0.5, 0.5])
    tokenizer = foveal.Model(DATA / "text_mistral" / "model-f16.gguf", threads=1)
    parts = ["The secret number of the castle is 4821.", "\n\nNot 48 21."]
    ids = tokenizer.tokenize("".join(parts))
    rows = needles.number_rows(tokenizer, parts, "4821", len(ids) + 5)
    assert tokenizer.detokenize([ids[i - 5] for i in rows]).strip() == "4821"
    assert len(needles.number_rows(tokenizer, parts, "9999", len(ids))) == 0


def test_a_model_without_a_template_goes_on_with_the_text() -> None:
    plain = foveal.Model(DATA / "text_mistral" / "model-f16.gguf", threads=1)  # its file has none

    def make(task: str) -> object:
        return text_items.text_items(task, 1, [60], lambda t: plain.tokenize(t, False), plain.detokenize)[0]()

    item = make("needle")
    frame = measure.Frame(plain, item)
    question = frame.question(item.questions[0])
    assert frame.head == item.context and question[0].startswith("\n\nThe secret number of the ")
    assert question[0].endswith(" is") and question[0].strip() in item.context[0]
    grid = arms.grid(["full", "snapkv"], ["none"], ["20"], False)
    found = measure.measure(plain, make("prose"), grid, "after", arms.Keep(8), True)
    assert found["cells"]["snapkv/none/20"]["rows"] == 20
    assert "right" not in found["cells"]["snapkv/none/20"]["answers"][0]
    with pytest.raises(foveal.UnsupportedError, match="template"):
        measure.Frame(plain, items.Item("own", "0", ["text"], [items.Question("What?", None)]))


def test_answers_are_judged_as_asked() -> None:
    exact, contains = items.same(["Red Car"], "exact"), items.same(["42"], "contains")
    assert exact(" red  car.") and exact("RED CAR") and not exact("a red car")
    assert contains("it is 42 now") and not contains("it is 4 2")


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "own.jsonl:1"),
        ("[1]", "an object"),
        ('{"image": "a.png", "question": "x"}', "answers"),
        ('{"image": 3, "question": "x", "answer": "y"}', "image"),
        ('{"image": "a.png", "question": "x", "answer": "y", "match": "near"}', "match"),
        ('{"image": "a.png", "question": "x", "answer": "y", "box": [1, 2]}', "box"),
        ("", "no item"),
    ],
)
def test_bad_items_are_named(tmp_path: Path, line: str, part: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(line)
    with pytest.raises(foveal.ArgumentError, match=part):
        items.own_items(str(path), 1)


@pytest.mark.parametrize(
    ("policies", "budgets", "part"),
    [(["snap"], ["64"], "snapkv"), (["snapkv"], ["6.5"], "rows"), (["full"], ["x%"], "10%")],
)
def test_bad_arms_are_named(policies: list, budgets: list, part: str) -> None:
    with pytest.raises(foveal.ArgumentError, match=part):
        arms.grid(policies, ["none"], budgets, False)


def test_a_resumed_file_is_never_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    first = store.Store(path, {"a": 1})
    for i in range(3):
        first.add({"task": "t", "key": str(i), "protocol": "inside"})
    first.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"task": "t", "key": "cut')
    again = store.Store(path, {"a": 1})
    assert path.read_bytes() == whole and len(again.results) == 3
    again.add({"task": "t", "key": "3", "protocol": "inside"})
    again.close()
    assert len(path.read_bytes().splitlines()) == 5
    with pytest.raises(foveal.ArgumentError, match="other settings"):
        store.Store(path, {"a": 2})
    store.Store(tmp_path / "none.jsonl", {"arms": [1]}).close()
    store.Store(tmp_path / "none.jsonl", {"arms": [2]}).close()  # no result yet: nothing to mix
    store.Store(tmp_path / "none.jsonl", {"arms": [2], "sinks": 0}).close()
    (tmp_path / "mine.jsonl").write_text('{"image": "a.png", "question": "q"}\n')
    with pytest.raises(foveal.ArgumentError, match="other settings"):
        store.Store(tmp_path / "mine.jsonl", {"arms": [1]})


def test_one_picture_gives_no_interval() -> None:
    d, low, high = stats.paired_interval({"x": np.array([1.0])}, {"x": np.array([0.0])})
    assert (d, low, high) == (1, None, None)
    assert table.interval((d, low, high)) == "+100.0"


def test_what_a_list_names_twice_counts_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "foveal", "evaluate", "-m", MODEL, "--text", "prose,prose", "--lengths", "40,40",
         "--count", "1", "--policies", "full, snapkv,snapkv", "--mixes", "none, none", "--budgets", "20,20",
         "--protocol", "inside", "--kv-window", "8", "--jobs", "1", "-o", tmp_path / "out"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Items: prose-40 1; 1 questions" in done.stdout and done.stdout.count("| snapkv |") == 1


def test_a_questions_text_never_becomes_a_control_token(model: foveal.Model) -> None:
    for text in ("hi<|im_end|>x", "What is it?"):
        frame = measure.Frame(model, items.Item("own", "0", ["Look. "], [items.Question(text, None)]))
        with model.session() as a, model.session() as b:
            a.prefill(frame.head + frame.question(items.Question(text, None)))
            b.chat([{"role": "user", "content": text}], max_tokens=0)
            end = model.tokenize("<|im_end|>")[0]
            assert a.tokens.count(end) == b.tokens.count(end)


def test_names_of_tasks_break_no_table() -> None:
    assert table.line(["a|b", "c\nd"]) == "| a\\|b | c d |"
