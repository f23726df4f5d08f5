"""What is asked: the built-in pages and anyone's own JSONL, as context, questions and how an answer is judged."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foveal.errors import ArgumentError, FileError

from .pages_source import pages

Judge = Callable[[str], bool]


@dataclass(frozen=True)
class Question:
    """text as the user asks it; right says whether an answer counts, None where nothing is right or wrong; box: the
    answer's place in pixels, if known. completion: what stands in the question's place for a model without a chat
    template, which goes on with a text and answers nothing."""

    text: str
    right: Judge | None
    box: tuple[float, float, float, float] | None = None
    answer: str = ""
    completion: str = ""


@dataclass(frozen=True)
class Item:
    """context: what stands before the questions, str and at most one picture. more: text between context and question
    when the context is compressed first ("" asks at once)."""

    task: str
    key: str
    context: list[Any]
    questions: list[Question]
    max_tokens: int = 48
    picture: Any = field(default=None, compare=False)


def page_items(
    kind: str, count: int, questions: int, first_seed: int = 0, split: str = "test"
) -> list[Callable[[], Item]]:
    """`count` pages of a kind, drawn when called. The first question of a page is the one that make_item asks."""
    known = pages().KINDS
    if kind not in known:
        raise ArgumentError(f"--tasks: found {kind!r:.40}, expected some of {', '.join(known)}")
    return [lambda seed=seed: page_item(kind, seed, questions, split) for seed in range(first_seed, first_seed + count)]


def page_item(kind: str, seed: int, questions: int, split: str) -> Item:
    p = pages()
    image, question, answer, box = p.make_item(kind, seed, split)
    asked = [(question, answer, box)]
    if questions > 1 and kind != "chat":  # the same random numbers draw the same page again
        rng = random.Random(f"{kind}/{seed}/{split}")
        page = p.make_page(kind, rng, split, *rng.choice(p.SIZES))
        others = [q[1:] for q in page.qa if q[0] == kind and q[1] != question]
        asked += random.Random(seed).sample(others, min(questions - 1, len(others)))

    def judge(answer: str, box: Any) -> Judge:
        return lambda given: bool(p.is_right(kind, answer, given, box, image.size))

    return Item(kind, f"{kind}-{seed}", [image], [Question(q, judge(a, b), b, a) for q, a, b in asked], picture=image)


def same(answers: list[str], match: str) -> Judge:
    """exact: one of the answers, case and outer spaces apart; contains: one of them stands in what was said."""
    wanted = [" ".join(a.casefold().split()) for a in answers]

    def right(given: str) -> bool:
        said = " ".join(given.casefold().split())
        return any(a in said if match == "contains" else a == said.rstrip(".") or a == said for a in wanted)

    return right


def own_items(path: str, questions: int) -> list[Callable[[], Item]]:
    """JSONL, one object a line: image (a path, from the file's folder), question, answers (a list, or `answer`), and if
    known task, box [x0, y0, x1, y1] in pixels, match ("exact" | "contains"), max_tokens. Lines that name the same image
    one after another are several questions on it."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as e:
        raise FileError(f"{path}: {e}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        o = _object(path, number, line)
        group = groups.setdefault((o["task"], o["image"]), [])
        if len(group) < questions:
            group.append(o)
    if not groups:
        raise ArgumentError(f"{path}: found no item, expected one JSON object a line")
    return [lambda g=g, k=k: _own_item(Path(path).parent, k, g) for k, g in groups.items()]


def _object(path: str, number: int, line: str) -> dict[str, Any]:
    try:
        o = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise ArgumentError(f"{path}:{number}: {e}") from None
    if not isinstance(o, dict):
        raise ArgumentError(f"{path}:{number}: found {type(o).__name__}, expected an object")
    o.setdefault("task", Path(path).stem)
    o.setdefault("match", "exact")
    o.setdefault("answers", [o["answer"]] if "answer" in o else None)
    for name, good in {
        "image": isinstance(o.get("image"), str),
        "question": isinstance(o.get("question"), str),
        "task": isinstance(o["task"], str),
        "answers": isinstance(o["answers"], list) and o["answers"] and all(isinstance(a, str) for a in o["answers"]),
        "match": o["match"] in ("exact", "contains"),
        "box": o.get("box") is None or _is_box(o["box"]),
        "max_tokens": type(o.get("max_tokens", 48)) is int and o.get("max_tokens", 48) > 0,
    }.items():
        if not good:
            raise ArgumentError(
                f"{path}:{number}: {name}: found {o.get(name)!r:.60}, expected image, question, task as text, answers"
                ' as a list of texts, match "exact" or "contains", box as x0, y0, x1, y1, max_tokens above 0'
            )
    return o


def _is_box(box: Any) -> bool:
    if not (isinstance(box, list) and len(box) == 4 and all(type(x) in (int, float) and math.isfinite(x) for x in box)):
        return False
    return bool(box[0] < box[2] and box[1] < box[3])


def _own_item(folder: Path, key: tuple[str, str], group: list[dict[str, Any]]) -> Item:
    image = folder / key[1]
    questions = [
        Question(
            o["question"], same(o["answers"], o["match"]), tuple(o["box"]) if o.get("box") else None, o["answers"][0]
        )
        for o in group
    ]
    return Item(key[0], key[1], [image], questions, max(o.get("max_tokens", 48) for o in group), image)
