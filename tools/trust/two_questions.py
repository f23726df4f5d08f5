"""The two-question test: ask about one place of a picture, then about another, under a budget.

two_questions.py MODEL.gguf MMPROJ.gguf [--count 100] [--budgets 64,128]: a Markdown table of how often the first and
the second answer are right with

- full, a chat: everything kept, the second question is the chat's second turn;
- full, forks: everything kept, each question right behind the picture. Where this is better than the chat, the model
  is at a loss with second turns, whatever the cache does;
- per turn: a chat; the budget is applied after each prompt, the second question finds what the first has left;
- compress once: the picture is read and evicted before any question (window: the picture's own last rows), each
  question then starts from a fork of that;
- refresh: as per turn, but session.refresh() reads the picture again from its cached embeddings before the second.
"""

import collections

from common import Question, items, load, parser, share
from PIL import Image

import foveal

HEAD, TAIL = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
WINDOW = 8  # of compress once: rows of the picture alone


def is_right(question: Question, given: str) -> bool:
    return given.strip() == question[2]


def chat(model: foveal.Model, image: Image.Image, asked: list[Question], kv: foveal.KV, refresh: bool):
    """[first right, second right], bytes held at the end."""
    with model.session(kv) as session:
        first = {"role": "user", "content": asked[0][1], "images": [image]}
        answer = session.chat([first], max_tokens=64).text
        if refresh:
            session.refresh(0)
        talk = [first, {"role": "assistant", "content": answer}, {"role": "user", "content": asked[1][1]}]
        second = session.chat(talk, max_tokens=64).text
        return [is_right(asked[0], answer), is_right(asked[1], second)], session.kv_bytes


def compress_once(model: foveal.Model, image: Image.Image, asked: list[Question], budget: int | None):
    with model.session() as session:
        session.prefill([HEAD, image])
        if budget:
            session.evict(foveal.KV(budget=budget, window=WINDOW))
        held, right = session.kv_bytes, []
        for question in asked:
            with session.fork() as fork:
                options = foveal.session.generate_options(max_tokens=64)
                right.append(is_right(question, fork._generate([question[1] + TAIL], options).reply().text))
        return right, held


def main():
    args = parser(__doc__).parse_args()
    model, budgets = load(args), [int(b) for b in args.budgets.split(",")]
    rows: dict[tuple[str, str], list[tuple[list[bool], int]]] = collections.defaultdict(list)
    for kind in args.kinds.split(","):
        for image, asked in items(kind, args.count, 2):
            rows[kind, "full, a chat"].append(chat(model, image, asked, foveal.KV(), False))
            rows[kind, "full, forks"].append(compress_once(model, image, asked, None))
            for budget in budgets:
                kv = foveal.KV(budget=budget)
                rows[kind, f"per turn, {budget}"].append(chat(model, image, asked, kv, False))
                rows[kind, f"compress once, {budget}"].append(compress_once(model, image, asked, budget))
                rows[kind, f"refresh, {budget}"].append(chat(model, image, asked, kv, True))
    print("| page | cache | first answer right, % | second, % | KV bytes at the end |")
    print("| --- | --- | ---: | ---: | ---: |")
    for (kind, what), results in rows.items():
        n, held = len(results), sum(b for _, b in results) / len(results)
        first, second = (share(sum(r[i] for r, _ in results), n) for i in (0, 1))
        print(f"| {kind} | {what} | {first} | {second} | {held:,.0f} |")


if __name__ == "__main__":
    main()
