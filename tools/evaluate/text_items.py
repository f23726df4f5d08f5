"""Items without pictures: a needle or several keys in long text, and plain long text. Drawn by code from a seed.

The text is Python's own manual, which every Python brings along; needles are sentences of the kind
"The secret number of the garden is 4821." at a depth drawn at random.
"""

import random
from collections.abc import Callable
from pydoc_data.topics import topics

from foveal.errors import ArgumentError

from .items import Item, Question, same

TASKS = ("needle", "multikey", "prose")
THINGS = """garden river castle bridge market forest island harbor tower museum library station village temple valley
desert kitchen window mountain theater school hospital factory airport""".split()


def text_items(task: str, count: int, lengths: list[int], tokenize: Callable[[str], list[int]],
               detokenize: Callable[[list[int]], str]) -> list[Callable[[], Item]]:  # fmt: skip
    """`count` items of each length in tokens, which is a task of its own: needle-1000."""
    if task not in TASKS:
        raise ArgumentError(f"--text: found {task!r:.40}, expected some of {', '.join(TASKS)}")
    manual = [tokenize(topics[name]) for name in sorted(topics) if len(topics[name]) > 2000]

    def make(n: int, i: int) -> Item:
        rng = random.Random(f"{task}/{i}")
        ids: list[int] = []
        while len(ids) < n:
            ids += rng.choice(manual)
        text = detokenize(ids[:n])
        return prose(f"{task}-{n}", i, text) if task == "prose" else needle(task, n, i, text, rng)

    return [lambda n=n, i=i: make(n, i) for n in lengths for i in range(count)]


def needle(task: str, n: int, i: int, text: str, rng: random.Random) -> Item:
    """One sentence, or eight of the same form with other things, hidden between lines of the text; one is asked for."""
    things = rng.sample(THINGS, 8 if task == "multikey" else 1)
    lines = text.split("\n")
    numbers = {thing: str(rng.randint(1000, 9999)) for thing in things}
    for thing, number in numbers.items():
        lines.insert(
            rng.randint(min(1, len(lines) - 1), len(lines) - 1), f"The secret number of the {thing} is {number}."
        )
    asked = things[0]
    question = f"\n\nWhat is the secret number of the {asked}? Answer with the number only."
    answer = numbers[asked]
    asked_for = Question(
        question, same([answer], "contains"), answer=answer, completion=f"\n\nThe secret number of the {asked} is"
    )
    return Item(f"{task}-{n}", f"{task}-{i}", ["\n".join(lines)], [asked_for], 16)


def prose(task: str, i: int, text: str) -> Item:
    """Nothing is right or wrong here: how far the next tokens' distributions move is what is measured."""
    question = Question("\n\nGo on with this text in the same manner.", None, completion="\n")
    return Item(task, f"prose-{i}", [text], [question], 48)
