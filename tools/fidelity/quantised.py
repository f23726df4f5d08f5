"""What quantised files cost on the fixtures: Foveal's logits against the original run on the dequantised weights.

    python tools/fidelity/quantised.py -o docs/quantised.md

Both read the same numbers from the file; the difference is the rounding of activations to 8 bits (and, for K-quants, of
sub-block scales). Cases without such goldens are left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "python"))

from goldens import CASES, DATA, distance, exact, greedy, load

HEAD = """# Quantised files

How far the first logits lie from the original implementation's on the dequantised weights (|difference| / |original|),
and how many of 16 greedy tokens come before the first that differs. The models are tiny and random, which is the hard
case: logits lie close together. Made by `python tools/fidelity/quantised.py -o docs/quantised.md`.

| family | case | file | logits | greedy |
| --- | --- | --- | ---: | ---: |
"""


def rows() -> list[str]:
    out = []
    for case in CASES:
        arrays = case.arrays
        for kind in ("q8_0", "q4_k"):
            if f"{kind}_greedy_ids" not in arrays or not (DATA / case.family / f"model-{kind}.gguf").exists():
                continue
            expected, logits = arrays[f"{kind}_greedy_ids"], arrays[f"{kind}_greedy_logits"]
            session = load(case.family, kind).session(exact())
            session.prefill(case.parts())
            tokens, found = greedy(session, len(expected))
            same = next((i for i, (a, b) in enumerate(zip(tokens, expected, strict=True)) if a != b), len(expected))
            name = case.name or "main"
            out.append(f"| {case.family} | {name} | {kind} | {distance(found[0], logits[0]):.3f} | {same} |\n")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    args.output.write_text(HEAD + "".join(rows()), encoding="utf-8")


if __name__ == "__main__":
    main()
