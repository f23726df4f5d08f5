"""The heat map against pictures where the answer's place is known.

heat_check.py MODEL.gguf MMPROJ.gguf [--count 100] [--budgets 64,128]: what share of the heads holds the rows that look
at the answer, and at the rest of the picture, read off session.kv_report().heatmap(); of pictures whose question the
full cache answers rightly. Random eviction is the yardstick: there both shares are the same.
"""

import collections
import math

import numpy as np
from common import items, load, parser

import foveal

POLICIES = {
    "random": {"policy": "random"},
    "snapkv": {"policy": "snapkv", "mix": "none"},
    "adakv + mixkv": {},
    "adakv + sharp": {"mix": "sharp"},
}


def shares(heat: np.ndarray, box: tuple[float, float, float, float]) -> tuple[float, float]:
    """Mean of the map inside of the box and outside."""
    inside = np.zeros(heat.shape, bool)
    x0, y0 = (max(0, math.floor(v)) for v in box[:2])
    x1, y1 = (math.ceil(v) for v in box[2:])
    inside[y0:y1, x0:x1] = True
    return float(np.nanmean(heat[inside])), float(np.nanmean(heat[~inside]))


def main():
    args = parser(__doc__).parse_args()
    model = load(args)
    found: dict[tuple[str, int, str], list[tuple[float, float, bool]]] = collections.defaultdict(list)
    for kind in args.kinds.split(","):
        for image, [(_, question, answer, box)] in items(kind, args.count, 1):
            with model.session() as session:
                if session.chat(question, images=[image], max_tokens=64).text.strip() != answer:
                    continue
            for budget in (int(b) for b in args.budgets.split(",")):
                for name, options in POLICIES.items():
                    with model.session(foveal.KV(budget=budget, **options)) as session:
                        reply = session.chat(question, images=[image], max_tokens=64)
                        there, elsewhere = shares(reply.kv.heatmap(0), box)
                        found[kind, budget, name].append((there, elsewhere, reply.text.strip() == answer))
    print("| page | budget | policy | pictures | kept at the answer | elsewhere | times | still right |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for (kind, budget, name), rows in found.items():
        there, elsewhere, right = np.mean(np.array(rows, float), axis=0)
        print(
            f"| {kind} | {budget} | {name} | {len(rows)} | {100 * there:.1f} % | {100 * elsewhere:.1f} % "
            f"| {there / elsewhere:.1f} | {100 * right:.0f} % |"
        )


if __name__ == "__main__":
    main()
