"""`foveal demo`: the built-in model, its pictures and right answers, the two columns, maps as files and as text."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal import demo
from foveal.drawing import draw, wants_colour


def run(*args: str, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "foveal", "demo", "-t", "1", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | env)


def test_answers_are_what_stands_there() -> None:
    model = demo.model(threads=1)
    assert model.info["bytes"] <= 16 << 20
    asked = demo.questions()
    assert 2 <= len({q.picture for q in asked}) <= 3
    for question in asked:
        with model.session() as session:
            reply = session.chat(question.text, images=[question.picture], max_tokens=96)
        assert reply.text.strip() == question.answer, question


def test_command(tmp_path: Path) -> None:
    done = run("-o", str(tmp_path / "maps"))
    assert done.returncode == 0, done.stderr
    n = len(demo.questions())
    assert f"{n} of {n} answers are what stands there." in done.stdout
    assert done.stdout.count("full cache") == done.stdout.count("budget 64") == n
    cells = re.findall(r"KV cache +([\d.]+ \w+) +([\d.]+ \w+)", done.stdout)
    assert len(cells) == n
    assert all(in_bytes(full) > 3 * in_bytes(kept) for full, kept in cells)
    maps = sorted((tmp_path / "maps").iterdir())
    assert len(maps) == n
    for path in maps:
        assert str(path) in done.stdout
        question = next(q for q in demo.questions() if path.name.startswith(q.picture.stem))
        assert Image.open(path).size == Image.open(question.picture).size
    assert "\033" not in done.stdout  # nobody watches: plain ASCII
    assert done.stdout.isascii()


def in_bytes(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"KiB": 1 << 10, "MiB": 1 << 20}[unit]


def test_own_picture(tmp_path: Path) -> None:
    picture = demo.questions()[0].picture
    own = tmp_path / "mine.png"
    own.write_bytes(picture.read_bytes())
    done = run("--image", str(own), "-q", demo.questions()[0].text, "-o", str(tmp_path), "--kv-budget", "128")
    assert done.returncode == 0, done.stderr
    assert demo.questions()[0].answer in done.stdout
    assert "budget 128" in done.stdout
    assert (tmp_path / "mine-1.png").exists()
    assert "stands there" not in done.stdout  # nobody knows what does


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["-q", "What?"], 2, "--image"),
        (["--image", "no/such.png"], 4, "such.png"),
        (["--kv-budget", "20"], 2, "33"),
        (["more"], 2, "more"),
    ],
)
def test_refusals(args: list[str], status: int, said: str) -> None:
    done = run(*args)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert done.stdout == ""


class Stream:
    def __init__(self, tty: bool) -> None:
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


def test_colour_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Stream(True))  # type: ignore[arg-type]
    assert not wants_colour(Stream(False))  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Stream(True))  # type: ignore[arg-type]
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour(Stream(True))  # type: ignore[arg-type]


def test_drawing_shows_where() -> None:
    pixels = np.full((80, 160, 3), 255, np.uint8)
    heat = np.zeros((80, 160), np.float32)
    heat[40:, 80:] = 1
    plain = [line.ljust(32) for line in draw(pixels, heat, 32, colour=False).split("\n")]
    assert len(plain) == 8
    assert all(line[:16].strip() == "" for line in plain)
    assert all(line.strip() == "" for line in plain[:4])
    assert all(line[16:] == "@" * 16 for line in plain[4:])
    lines = draw(pixels, heat, 32, colour=True).split("\n")
    assert len(lines) == 8
    assert all(line.count("▀") == 32 and line.endswith("\033[0m") for line in lines)
    dark, bright = (int(re.findall(r"38;2;(\d+)", lines[i])[-1]) for i in (0, 7))
    assert bright > 2 * dark
