"""What the rows that a policy keeps show: text or blank paper, and the answer? ink.py -m MODEL --mmproj FILE.

For built-in pages: of the picture rows kept outside the window, the share whose square has a character in it; and the
share of heads that hold a row of the answer's box, mean over its rows: of all heads, and weighed by the calibrated
scores of the heads that look at answers. A Markdown table goes to stdout.
"""

import argparse
import random
import sys

import numpy as np

import foveal
from foveal.cli.harness import harness
from foveal.kv import KV
from foveal.rawfile import read


def squares(pages, kind: str, seed: int) -> np.ndarray:
    """Which squares of make_item's page have a character in them: bool [rows * cols], in the order of the rows."""
    rng = random.Random(f"{kind}/{seed}/test")
    page = pages.make_page(kind, rng, "test", *rng.choice(pages.SIZES))
    return np.array([bool(cell) for cell in pages.slots(page)])


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--mmproj", required=True)
    p.add_argument("--kv-tables", required=True, help="of `foveal calibrate`")
    p.add_argument("--tasks", default="form,place")
    p.add_argument("--count", type=int, default=100)
    p.add_argument("--first-seed", type=int, default=1000)
    p.add_argument("--budget", type=int, default=64)
    p.add_argument("--policies", default="random,snapkv,adakv,sparsemm")
    p.add_argument("--mixes", default="none,mixkv,sharp")
    p.add_argument("-t", "--threads", type=int, default=1)
    o = p.parse_args()
    pages, items, measure = harness("pages_source").pages(), harness("items"), harness("measure")
    model = foveal.Model(o.model, mmproj=o.mmproj, threads=o.threads)
    scores = next(t for t in read(o.kv_tables).tensors if t.name == "head_scores").data.view(np.float32)
    scores = scores.reshape(model.info["n_layer"], model.info["n_head_kv"], -1).sum(2).reshape(-1)
    arms = [(x, m) for x in o.policies.split(",") for m in (["none"] if x == "random" else o.mixes.split(","))]
    seen: dict[tuple[str, str], list[tuple[float, float, float]]] = {arm: [] for arm in arms}
    on_page = []
    for kind in o.tasks.split(","):
        for seed in range(o.first_seed, o.first_seed + o.count):
            item, ink = items.page_item(kind, seed, 1, "test"), squares(pages, kind, seed)
            frame, (x0, y0, x1, y1) = measure.Frame(model, item), item.questions[0].box
            with model.session(KV(dtype="f32")) as session:
                session.prefill(frame.head + frame.question(item.questions[0]))
                image = session.kv_report().images[0]
                b, first, last = image.boxes, session.n_tokens - 32, image.rows[0] + len(ink)
                answer = image.rows[(b[:, 0] < x1) & (b[:, 2] > x0) & (b[:, 1] < y1) & (b[:, 3] > y0)]
                on_page.append(ink.mean())
                for policy, mix in arms:
                    with session.fork(KV(o.budget, policy, mix, tables=o.kv_tables, dtype="f32")) as copy:
                        heads = [h for il in range(model.info["n_layer"]) for h in copy.kept(il)]
                    rows = np.concatenate(heads)
                    rows = rows[(rows >= image.rows[0]) & (rows < min(first, last))] - image.rows[0]
                    held = np.array([np.isin(answer, h).mean() for h in heads])
                    on_ink = float(ink[rows].mean()) if len(rows) else 0.0
                    seen[policy, mix].append((on_ink, held.mean(), np.average(held, weights=scores)))
    pages_line = f"{o.count} pages each of {o.tasks}, budget {o.budget};"
    print(f"{pages_line} on ink are {100 * np.mean(on_page):.1f} % of all rows.\n")
    print("| policy | mix | kept rows on ink, % | answer's rows held, % of heads | weighed by head scores, % |")
    print("| --- | --- | ---: | ---: | ---: |")
    for (policy, mix), values in seen.items():
        shares = " | ".join(f"{100 * x:.1f}" for x in np.mean(values, axis=0))
        print(f"| {policy} | {'' if policy == 'random' else mix} | {shares} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
