"""The `foveal` command, Python's and the one without Python: a new user's path, exit statuses, Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import foveal
from goldens import DATA, Case

TEXT = str(DATA / "qwen2vl" / "model-f16.gguf")
MMPROJ = str(DATA / "qwen2vl" / "mmproj-f16.gguf")
PICTURE = str(DATA / "qwen2vl" / "image0.png")
MODEL = ["-m", TEXT, "--mmproj", MMPROJ, "-t", "1"]
RUN = ["run", *MODEL, "-n", "8"]


def run(cli: list[str], *args: str, stdin: str = "", **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*cli, *args], input=stdin, capture_output=True, text=True, timeout=120, **options)


def test_values_may_begin_with_a_dash(cli: list[str]) -> None:
    for text in ("-no dashes, please", "--stats", "-hello", "--"):
        done = run(cli, *RUN, "-p", text, "--stop", "---")
        assert done.returncode == 0 and "tokens/s" not in done.stderr, done.stderr
    assert run(cli, *RUN, "-p").returncode == 2


def test_bytes_that_are_no_utf8_are_a_message(cli: list[str]) -> None:
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    said = subprocess.run(
        [*cli, "chat", *MODEL, "-n", "4"], input=b"caf\xe9\nhello\\", capture_output=True, timeout=120, env=strict
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.count(b"\n") >= 2 and b"Traceback" not in said.stderr  # the last line counts, too


def test_passing_the_trained_context_is_said_once(cli: list[str]) -> None:
    text = str(DATA / "text_llama" / "model-f16.gguf")
    done = run(cli, "run", "-m", text, "-c", "5000", "-n", "2", "--kv-budget", "64", stdin="word " * 1400)
    assert done.returncode == 0 and done.stderr.count("positions that its model was trained for") == 1, done.stderr


def test_answers_with_a_picture(cli: list[str]) -> None:
    done = run(cli, *RUN, "--image", PICTURE, "-p", "What is it?", "--stats")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")
    assert "tokens/s" in done.stderr
    assert "without eviction" in done.stderr
    assert "\033" not in done.stdout + done.stderr  # no progress where nobody watches
    again = run(cli, *RUN, f"--image={PICTURE}", stdin="What is it?\n")
    assert again.stdout == done.stdout


def test_raw_prompt_gives_the_golden_tokens(cli: list[str]) -> None:
    case = Case("qwen2vl", "")
    args = [*RUN, "-n", "16", "--raw", "--image", PICTURE, "-p", case.text["prompt"], "--ignore-eos"]
    done = subprocess.run([*cli, *args], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    tokenizer = foveal.Tokenizer(TEXT)
    golden = tokenizer.decode(case.text["greedy_ids"]).encode()
    assert done.stdout.rstrip(b"\n") == golden.rstrip(b"\n")


def test_budget_and_policies(cli: list[str]) -> None:
    options = ["--kv-budget", "40", "--kv-window", "16", "--kv-policy", "snapkv", "--kv-mix", "none", "--stats"]
    done = run(cli, *RUN, "--image", PICTURE, "-p", "What is it? " * 10, *options)
    assert done.returncode == 0, done.stderr
    assert re.search(r"eviction .* [1-9]\d* times", done.stderr)


USAGE = {
    "no command": ([], 0, "usage"),
    "help": (["run", "--help"], 0, "--kv-budget"),
    "version": (["--version"], 0, r"foveal \d"),
    "unknown command": (["rum"], 2, "run"),
    "unknown flag": ([*RUN, "-p", "a", "--kv-bugdet", "5"], 2, "--kv-budget"),
    "missing value": ([*RUN, "-p"], 2, "-p"),
    "switch with a value": ([*RUN, "-p", "a", "--raw=yes"], 2, "--raw"),
    "no integer": ([*RUN, "-p", "a", "-c", "abc"], 2, "abc"),
    "scientific": ([*RUN, "-p", "a", "--ctx-size=1e99"], 2, "1e99"),
    "trailing": ([*RUN, "-p", "a", "-n", "5x"], 2, "5x"),
    "too large": ([*RUN, "-p", "a", "-n", "99999999999999"], 2, "99999999999999"),
    "negative": ([*RUN, "-p", "a", "-t", "-1"], 2, "-1"),
    "not a number": ([*RUN, "-p", "a", "--temp", "nan"], 2, "nan"),
    "infinite": ([*RUN, "-p", "a", "--temp", "1e999"], 2, "1e999"),
    "range": ([*RUN, "-p", "a", "--top-p", "7"], 2, "top_p"),
    "bad budget": ([*RUN, "-p", "a", "--kv-budget", "much"], 2, "much"),
    "budget too small": ([*RUN, "-p", "a", "--kv-budget", "16"], 2, "33|window"),
    "bad policy": ([*RUN, "-p", "a", "--kv-policy", "lru"], 2, "snapkv"),
    "no model": (["run", "-p", "a"], 2, "-m"),
    "no file": (["info"], 2, "FILE"),
    "stray argument": ([*RUN, "-p", "a", "b"], 2, "'b'|\"b\"|b"),
    "conflict": ([*RUN, "-p", "a", "--raw", "-sys", "b"], 2, "--raw"),
    "picture without mmproj": (["run", "-m", TEXT, "--image", PICTURE, "-p", "a"], 2, "mmproj"),
    "unknown template": ([*RUN, "-p", "a", "--chat-template", "nope"], 2, "chatml"),
}


@pytest.mark.parametrize("name", USAGE)
def test_usage(cli: list[str], name: str) -> None:
    args, status, said = USAGE[name]
    done = run(cli, *args)
    assert done.returncode == status, done.stderr
    shown, quiet = (done.stdout, done.stderr) if status == 0 else (done.stderr, done.stdout)
    assert re.search(said, shown), shown
    assert quiet == ""
    assert "Traceback" not in shown


def bad_files(folder: Path) -> dict[str, tuple[list[str], int, str]]:
    text, cut = folder / "text.png", folder / "cut.png"
    text.write_text("hello, I am no picture\n")
    cut.write_bytes(Path(PICTURE).read_bytes()[:2000])
    wide = folder / "wide.png"
    Image.fromarray(np.zeros((1, 20000, 3), np.uint8)).save(wide)
    missing = str(folder / "missing")
    picture = [*RUN, "-p", "a", "--image"]
    return {
        "wrong model path": (["run", "-m", missing, "-p", "a"], 4, "missing"),
        "model is a folder": (["run", "-m", str(folder), "-p", "a"], 4, str(folder)),
        "wrong mmproj path": (["run", "-m", TEXT, "--mmproj", missing, "-p", "a"], 4, "missing"),
        "swapped": (["run", "-m", MMPROJ, "--mmproj", TEXT, "-p", "a"], 3, "swap"),
        "model is no GGUF": (["run", "-m", str(text), "-p", "a"], 3, "text.png"),
        "wrong picture path": ([*picture, missing], 4, "missing"),
        "picture is a folder": ([*picture, str(folder)], 4, str(folder)),
        "no picture": ([*picture, str(text)], 5, "text.png"),
        "cut picture": ([*picture, str(cut)], 5, "cut.png"),
        "wide picture": ([*picture, str(wide)], 5, "20000"),
        "context full": ([*RUN, "-p", "a " * 500, "-c", "64"], 6, "64"),
        "info of no GGUF": (["info", str(text)], 3, "text.png"),
        "wrong prompt file": ([*RUN, "-f", missing], 4, "missing"),
    }


BAD_FILES = (
    "wrong model path", "model is a folder", "wrong mmproj path", "swapped", "model is no GGUF", "wrong picture path",
    "picture is a folder", "no picture", "cut picture", "wide picture", "context full", "info of no GGUF",
    "wrong prompt file",
)  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(cli: list[str], name: str, tmp_path: Path) -> None:
    args, status, said = bad_files(tmp_path)[name]
    done = run(cli, *args)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert done.stdout == ""
    assert len(done.stderr) < 1000


def test_info(cli: list[str]) -> None:
    done = run(cli, "info", TEXT)
    assert done.returncode == 0
    for said in ("general.architecture", "qwen2vl", "token_embd.weight", "F16"):
        assert said in done.stdout


def test_bench(cli: list[str]) -> None:
    args = ["bench", "-m", TEXT, "-t", "1", "-p", "16", "-n", "4", "-d", "0,32", "-r", "2"]
    done = run(cli, *args)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"\| ((?:pp|tg)\d+(?: @ d\d+)?) \| [\d.]+ ± [\d.]+ \|", done.stdout) == [
        "pp16", "tg4", "pp16 @ d32", "tg4 @ d32",
    ]  # fmt: skip
    rows = json.loads(run(cli, *args, "-o", "json", "--kv-budget", "40").stdout)
    assert [r["n_depth"] for r in rows] == [0, 0, 32, 32]
    assert all(r["avg_ts"] > 0 for r in rows)


def test_chat(cli: list[str], tmp_path: Path) -> None:
    text = tmp_path / "no picture.png"
    text.write_text("text")
    lines = [
        "hello",
        f'/image "{text}"',
        "/image",
        f"/image {PICTURE}",
        "what is \\",
        "it?",
        "/stats",
        "/nonsense",
        "a " * 3000,
        "still there?",
        "/clear",
        "hello",
        "/quit",
        "never read",
    ]
    done = run(cli, "chat", *MODEL, "-n", "6", "-c", "1000", "-sys", "Be brief.", stdin="\n".join(lines) + "\n")
    assert done.returncode == 0, done.stderr
    answers = done.stdout.split("\n")
    assert answers[0]
    for said in ("no picture.png", "goes with the next message", "unknown: /nonsense", "reused", "/clear starts anew"):
        assert said in done.stderr, (said, done.stderr)
    assert done.stdout.startswith(answers[0])
    assert done.stdout.rstrip("\n").endswith(answers[0])  # after /clear the same question, the same answer


def test_chat_ends_with_its_input(cli: list[str]) -> None:
    assert run(cli, "chat", *MODEL, stdin="").returncode == 0
    odd = subprocess.run(
        [*cli, "chat", *MODEL, "-n", "2"], input=b"\xff\xfe \xe2\x82", capture_output=True, timeout=120
    )
    assert odd.returncode == 0, odd.stderr


def test_prompt_that_is_no_utf8(cli: list[str]) -> None:
    done = subprocess.run([*cli, *RUN], input=b"caf\xe9 \x00 \xe2\x82", capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_closed_output(cli: list[str]) -> None:
    command = subprocess.list2cmdline([*cli, "info", TEXT])
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, timeout=120
    )
    first, status = done.stdout.splitlines()
    assert first == TEXT
    assert status in ("0", "1", "141")
    assert "Traceback" not in done.stderr
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = subprocess.run([*cli, "info", TEXT], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr


def test_interrupt_stops_the_answer(cli: list[str]) -> None:
    process = subprocess.Popen(
        [*cli, "run", *MODEL, "-n", "-1", "-c", "32000", "--ignore-eos", "--raw", "-p", "hello"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit it ignored
    )
    assert process.stdout
    assert process.stdout.read(1)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors


# Reports hold pictures, which the program without Python can't draw.
PYTHON_ONLY = {"--kv-report", "--images", "--question"}


def test_both_programs_take_the_same_flags(cpp_build: Path) -> None:
    programs = ([sys.executable, "-m", "foveal"], [str(cpp_build / "foveal")])
    for command in ("run", "chat", "info", "bench"):
        found = []
        for program in programs:
            text = run(program, command, "--help").stdout
            found.append(set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text)) - {"--help", "-h"})
        only = found[0] ^ found[1]
        assert only <= PYTHON_ONLY & found[0], (command, only)


def test_both_programs_answer_alike(cpp_build: Path) -> None:
    args = [*RUN, "--image", PICTURE, "-p", "What is it?", "-n", "24"]
    assert run([sys.executable, "-m", "foveal"], *args).stdout == run([str(cpp_build / "foveal")], *args).stdout
