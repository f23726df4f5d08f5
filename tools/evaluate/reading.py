"""How much of the built-in pages a model reads, whole cache, greedily: reading.py FOLDER [--first 1000] [--count 200].

FOLDER holds model.gguf and mmproj.gguf. Test pages of every kind, by the judge of tools/train/pages.py; a Markdown
table with Wilson's 95 % intervals.
"""

import argparse
import math
import sys
from pathlib import Path

import foveal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "train"))
import pages


def interval(right: int, n: int) -> str:
    z, p = 1.96, right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    return f"{100 * p:.1f} % ({100 * low:.0f} to {100 * high:.0f})"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path)
    p.add_argument("--kinds", default="form,place,text,ground,chart,chat")
    p.add_argument("--first", type=int, default=1000, help="seed of the first page")
    p.add_argument("--count", type=int, default=200)
    p.add_argument("--threads", type=int)
    args = p.parse_args()
    model = foveal.Model(
        args.folder / "model.gguf", args.folder / "mmproj.gguf", image_max_tokens=440, threads=args.threads
    )
    print("| kind | pages | right |\n| --- | ---: | ---: |")
    for kind in args.kinds.split(","):
        right = 0
        for seed in range(args.first, args.first + args.count):
            image, question, answer, box = pages.make_item(kind, seed, "test")
            with model.session() as session:
                given = session.chat(question, images=[image], max_tokens=96).text.strip()
            right += pages.is_right(kind, answer, given, box, image.size)
        print(f"| {kind} | {args.count} | {interval(right, args.count)} |", flush=True)


if __name__ == "__main__":
    main()
