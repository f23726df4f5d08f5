"""Which rows of long text a policy keeps: needles.py -m MODEL. The built-in needle is hidden and asked for.

For each arm: the share of the chosen rows that are the newest before the window, as many as the budget has, and the
share of KV heads that hold a row of the needle's number, mean over its rows, in each third of the layers. A Markdown
table goes to stdout.
"""

import argparse
import sys

import numpy as np

import foveal
from foveal.cli.harness import harness
from foveal.kv import KV

ARMS = (("streaming", "none"), *((p, m) for p in ("snapkv", "adakv") for m in ("none", "mixkv", "sharp")))
WINDOW = 32


def number_rows(model: foveal.Model, parts: list[str], answer: str, n: int) -> np.ndarray:
    """Rows of the needle's number in the prompt of n rows: int [its tokens]; empty if tokens don't line up."""
    ids, number = model.tokenize("".join(parts)), model.tokenize(f" {answer}", False)
    while number and model.detokenize(number[:1]).strip() == "":
        number = number[1:]  # a token for the space alone
    at = [i for i in range(len(ids)) if ids[i : i + len(number)] == number]
    return np.arange(len(number)) + at[0] + n - len(ids) if at else np.zeros(0, int)


def shares(kept: list[list[np.ndarray]], rows: np.ndarray, n: int, budget: int) -> list[float]:
    """[newest, first third, second third, last third], kept as [layer][KV head] -> rows."""
    chosen = [k[k < n - WINDOW] for layer in kept for k in layer]
    newest = float(np.mean([(k >= n - WINDOW - budget).mean() for k in chosen if len(k)]))
    held = np.array([np.mean([np.isin(rows, k).mean() for k in layer]) for layer in kept])
    return [newest, *(float(part.mean()) for part in np.array_split(held, 3))]


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--length", type=int, default=1000)
    p.add_argument("--count", type=int, default=20)
    p.add_argument("--budget", type=int, default=128)
    p.add_argument("-t", "--threads", type=int, default=1)
    o = p.parse_args()
    model = foveal.Model(o.model, threads=o.threads)
    found: dict[tuple[str, str], list[list[float]]] = {arm: [] for arm in ARMS}
    for make in harness("text_items").text_items(
        "needle", o.count, [o.length], lambda t: model.tokenize(t, False), model.detokenize
    ):
        item = make()
        frame = harness("measure").Frame(model, item)
        parts = frame.head + frame.question(item.questions[0])
        with model.session(KV(dtype="f32")) as session:
            session.prefill(parts)
            n = session.n_tokens
            rows = number_rows(model, parts, item.questions[0].answer, n)
            for policy, mix in ARMS if len(rows) else ():
                with session.fork(KV(o.budget, policy, mix, window=WINDOW, dtype="f32")) as copy:
                    kept = [[np.asarray(k) for k in copy.kept(il)] for il in range(model.info["n_layer"])]
                found[policy, mix].append(shares(kept, rows, n, o.budget))
    print(f"{len(found[ARMS[0]])} needles in {o.length} tokens, {o.budget} rows a head.\n")
    print("| policy | mix | newest rows, % of the chosen | first third of the layers | second | last |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for (policy, mix), values in found.items():
        cells = " | ".join(f"{100 * x:.1f}" for x in np.mean(values, 0))
        print(f"| {policy} | {'' if policy == 'streaming' else mix} | {cells} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
