"""The command's KV side, in both programs: plan, sessions in files, pins, types; reports and comparisons."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import foveal
from goldens import DATA

FOLDER = DATA / "qwen2vl"
TEXT, MMPROJ, PICTURE = (str(FOLDER / n) for n in ("model-f16.gguf", "mmproj-f16.gguf", "image0.png"))
MODEL = ["-m", TEXT, "--mmproj", MMPROJ, "-t", "1"]
PYTHON = [sys.executable, "-m", "foveal"]


def run(cli: list[str], *args: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*cli, *args], input=stdin, capture_output=True, text=True, timeout=120)


def ok(cli: list[str], *args: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    done = run(cli, *args, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done


def test_plan(cli: list[str]) -> None:
    sizes = ["--image", "640x480", "x3", "--image", "100x100", "--turns", "2", "--kv-budget", "200"]
    out = ok(cli, "plan", TEXT, MMPROJ, *sizes).stdout
    expected = foveal.plan(TEXT, MMPROJ, [(640, 480, 3), (100, 100, 1)], turns=2, kv=foveal.KV(budget=200))
    rows = re.findall(r"^\| (\d+) \| (\d+) \|", out, re.M)
    assert rows == [(str(i + 1), str(turn["rows"])) for i, turn in enumerate(expected.turns)]
    said = re.match(r"rows per picture:(.*)", out)
    assert said and [int(n) for n in re.findall(r"\d+", said[1])] == expected.rows_per_image
    assert ": fits" in out
    tight = ok(cli, "plan", "-m", TEXT, "--mmproj", MMPROJ, "--image", "1920x1080", "--memory", "20MiB").stdout
    assert "does not fit; what would: --" in tight


def test_plan_needs_no_weights(cli: list[str], tmp_path: Path) -> None:
    """A file whose tensors are holes: the header alone is read."""
    whole = Path(TEXT).read_bytes()
    sparse = tmp_path / "headers.gguf"
    sparse.write_bytes(whole[: len(whole) // 2])
    with sparse.open("r+b") as file:
        file.truncate(len(whole))
    outputs = [ok(cli, "plan", str(file), "--memory", "1GiB").stdout for file in (sparse, TEXT)]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        ([], 2, "plan needs a model|-m"),
        ([TEXT, MMPROJ, "more"], 2, "more"),
        ([TEXT, MMPROJ, "--image", "10by10"], 2, "10by10"),
        ([TEXT, "--image", "100x100"], 2, "mmproj"),
        ([TEXT, "--memory", "much"], 2, "much"),
        ([TEXT, "--kv-budget", "8"], 2, "33"),
        ([MMPROJ], 3, "clip"),
        ([TEXT + ".none"], 4, "none"),
    ],
)
def test_plan_refuses(cli: list[str], args: list[str], status: int, said: str) -> None:
    done = run(cli, "plan", *args)
    assert done.returncode == status, done.stderr
    assert re.search(said, done.stderr), done.stderr
    assert done.stdout == ""


def test_plan_as_json() -> None:
    found = json.loads(ok(PYTHON, "plan", TEXT, MMPROJ, "--image", "64x64", "-o", "json").stdout)
    assert {"rows_per_image", "turns", "text_weights", "total", "fits", "advice"} <= found.keys()


def test_session_file_goes_on(cli: list[str], tmp_path: Path) -> None:
    """Two runs with a session file say what one chat says; other files are refused and left alone."""
    file = tmp_path / "talk.kv"
    kept = ["-n", "8", "--kv-budget", "64", "--kv-window", "16"]
    first = ok(cli, "run", *MODEL, *kept, "--session", str(file), "--image", PICTURE, "-p", "What is it?")
    saved = file.read_bytes()
    second = ok(cli, "run", *MODEL, "-n", "8", "--session", str(file), "-p", "And why?", "--stats")
    assert "tokens, kv budget 64 and context" in second.stderr
    assert "reused" in second.stderr
    lines = f"/image {PICTURE}\nWhat is it?\nAnd why?\n"
    assert ok(cli, "chat", *MODEL, *kept, stdin=lines).stdout == first.stdout + second.stdout
    assert file.read_bytes() != saved
    again = tmp_path / "again.kv"
    again.write_bytes(saved)
    assert ok(cli, "chat", *MODEL, "-n", "8", "--session", str(again), stdin="And why?\n").stdout == second.stdout
    late = ok(cli, "run", *MODEL, "-n", "2", "--session", str(again), "-sys", "Be kind.", "-p", "And?")
    assert "--system-prompt is left out" in late.stderr
    other = str(DATA / "text_llama" / "model-f16.gguf")
    for args, status, said in (
        (["-m", other], 3, "saved with model and mmproj"),
        (["-m", TEXT], 3, "saved with model and mmproj"),  # without its mmproj
    ):
        file.write_bytes(saved)
        done = run(cli, "run", *args, "-t", "1", "--session", str(file), "-p", "And?")
        assert done.returncode == status, done.stderr
        assert said in done.stderr
        assert file.read_bytes() == saved
    file.write_bytes(saved[:-1] + bytes([saved[-1] ^ 1]))
    done = run(cli, "run", *MODEL, "--session", str(file), "-p", "And?")
    assert done.returncode == 3 and "checksum" in done.stderr


def test_the_programs_read_each_others_sessions(cpp_build: Path, tmp_path: Path) -> None:
    native = [str(cpp_build / "foveal")]
    said = []
    for writer, reader in ((PYTHON, native), (native, PYTHON)):
        file = str(tmp_path / f"{len(said)}.kv")
        ok(writer, "run", *MODEL, "-n", "6", "--session", file, "--image", PICTURE, "-p", "What is it?")
        said.append(ok(reader, "run", *MODEL, "-n", "6", "--session", file, "-p", "And why?").stdout)
    assert said[0] == said[1] != ""


def test_pins_and_types(cli: list[str]) -> None:
    few = ["--kv-budget", "64", "--kv-window", "16", "-n", "6", "--image", PICTURE, "-p", "What is it? " * 3]
    for options in (["--kv-pin", "last-turn,0:4"], ["--kv-type", "q8_0"], ["--kv-type", "q4_0", "--kv-pin", "system"]):
        assert ok(cli, "run", *MODEL, *few, *options).stdout
    done = run(cli, "run", *MODEL, *few, "--kv-pin", "0:56")
    assert done.returncode == 2 and re.search(r"pinned \d+", done.stderr)
    done = run(cli, "run", *MODEL, *few, "--kv-pin", "everything")
    assert done.returncode == 2 and "last-turn" in done.stderr


def test_report(tmp_path: Path) -> None:
    page = tmp_path / "kept.html"
    args = [
        "run",
        *MODEL,
        "-n",
        "4",
        "--kv-budget",
        "48",
        "--kv-window",
        "16",
        "--image",
        PICTURE,
        "-p",
        "<b>What?</b>",
    ]
    plain = ok(PYTHON, *args).stdout
    assert ok(PYTHON, *args, "--kv-report", str(page)).stdout == plain
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert "48 rows per head" in text and "data:image/png;base64," in text
    assert "<b>What?" not in text  # text of the prompt is no markup
    assert not re.search(r"(?:src|href)=['\"](?!data:)", text)  # nothing is fetched
    done = run(PYTHON, *args, "--kv-report", str(tmp_path / "no" / "kept.html"))
    assert done.returncode == 4 and "kept.html" in done.stderr


def test_bench_on_pictures(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg"):
        Image.open(PICTURE).convert("RGB").save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    args = ["bench", *MODEL, "-n", "6", "--images", str(tmp_path), "--question", "What is it?"]
    out = ok(PYTHON, *args, "--kv-budget", "40", "--kv-window", "16").stdout.splitlines()
    assert len(out) == 4
    assert [line.split(" | ")[0] for line in out[2:]] == ["| a.png", "| b.jpg"]
    assert all(
        re.search(r"\| \d+ \| \d+ \| [\d.]+ % \| [\d.]+ \| (?:\d+|-) \| [\d.]+ % \| -?\d+ ms \|", s) for s in out[2:]
    )
    assert run(PYTHON, *args).returncode == 2  # nothing to compare without a budget
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run(PYTHON, "bench", *MODEL, "--images", str(empty), "--kv-budget", "40")
    assert done.returncode == 2 and "no picture" in done.stderr
