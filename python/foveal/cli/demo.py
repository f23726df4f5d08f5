"""foveal demo: the built-in model reads built-in pictures, with the full cache and under a budget, side by side."""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from .. import demo as built_in
from ..drawing import draw, wants_colour
from ..errors import ArgumentError, FileError
from ..images import Pixels, to_pixels
from ..kv import KV
from ..model import Model
from ..reply import Reply
from ..report import KvReport
from .setup import bytes_text, note

WIDEST = 64  # columns of a terminal picture
LIMITS = """The built-in model has a few million weights and reads printed pages like its own: the value beside a key of
a form, a word at a place ("What word is at the top left?"), a bar of a chart, the lines of a short text. It knows
nothing else. For other models: `foveal run -m model.gguf --mmproj mmproj.gguf --image photo.jpg -p "What is this?"`."""


def ask(model: Model, pixels: Pixels, question: str, kv: KV) -> tuple[Reply, KvReport, float]:
    """The answer, what the cache held at its end, and the seconds it took."""
    start = time.perf_counter()
    with model.session(kv) as session:
        reply = session.chat(question, images=[pixels], max_tokens=96)
        seconds = time.perf_counter() - start
        return reply, session.kv_report(), seconds


def side(reply: Reply, kept: KvReport, seconds: float) -> dict[str, str]:
    ms, n = reply.timings.decode, len(reply.tokens)
    return {
        "answer": str(reply).replace("\n", " / "),
        "tokens/s": f"{1000 * n / ms:.0f}" if ms > 0 else "-",
        "KV cache": bytes_text(kept.stats.bytes),
        "picture kept": f"{100 * kept.image_share(0):.0f} % of {len(kept.images[0].rows)} rows",
        "seconds": f"{seconds:.2f}",
    }


def table(sides: dict[str, dict[str, str]], width: int) -> str:
    """Two columns with the rows' names in front; an answer that is too long for its column goes below the other."""
    names = list(next(iter(sides.values())))
    answers = [s["answer"] for s in sides.values()]
    room = max(20, (width - 18) // 2)
    lines = [f"{'':16}" + "".join(f"{name:{room}}" for name in sides)]
    if max(map(len, answers)) >= room:
        lines += [f"  {name}: {answer}" for name, answer in zip(sides, answers, strict=True)]
        names.remove("answer")
    lines += [f"  {name:14}" + "".join(f"{s[name]:{room}}" for s in sides.values()) for name in names]
    return "\n".join(line.rstrip() for line in lines)


def show(model: Model, pixels: Pixels, question: str, budget: KV, png: Path, answer: str | None) -> bool:
    """Asks twice and prints both, the map of what the budget kept, and whether the answer is what stands there."""
    full, reply = ask(model, pixels, question, KV()), ask(model, pixels, question, budget)
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    print(f"\n  {question}")
    print(table({"full cache": side(*full), f"budget {budget.budget}": side(*reply)}, width))
    right = answer is None or full[0].text.strip() == answer
    if not right:
        print(f"  the picture says: {answer}")
    if reply[0].text != full[0].text:
        print(f"  at {budget.budget} the answer is another one: what it needed is gone")
    try:
        png.write_bytes(reply[1].overlay(0))
    except OSError as e:
        raise FileError(f"{png}: {e.strerror}") from None
    print(draw(pixels, reply[1].heatmap(0), min(WIDEST, width - 2), wants_colour(sys.stdout)))
    print(f"  what the budget kept: {png}", flush=True)
    return right


def demo(o: argparse.Namespace) -> int:
    if o.question and not o.image:
        raise ArgumentError("--question needs --image FILE, the picture that it is about")
    budget = KV(budget=o.kv_budget)
    asked: list[tuple[Pixels, str, str, str | None]]
    if o.image:
        asked = [(to_pixels(o.image), o.question or "What does the page say?", Path(o.image).stem, None)]
    else:
        asked = [(to_pixels(q.picture), q.text, q.picture.stem, q.answer) for q in built_in.questions()]
    model = built_in.model(o.threads)
    try:
        folder = Path(o.output or tempfile.mkdtemp(prefix="foveal-demo-"))
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise FileError(f"{o.output or 'a temporary folder'}: {e.strerror}; --output DIR names another") from None
    info = model.info
    print(f"the built-in model: {bytes_text(info['bytes'])}, {info['n_layer']} layers, {info['n_head_kv']} KV heads")
    right, shown = 0, ""
    for i, (pixels, question, name, answer) in enumerate(asked):
        if name != shown:
            print(f"\n{name}: a picture of {pixels.shape[1]} x {pixels.shape[0]}")
            shown = name
        right += show(model, pixels, question, budget, folder / f"{name}-{i + 1}.png", answer)
    if not o.image:
        print(f"\n{right} of {len(asked)} answers are what stands there.")
    note("\n" + LIMITS)
    return 0
