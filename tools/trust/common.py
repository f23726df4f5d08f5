"""What the programs of this folder share: pages with known answers, a model, shares with their intervals."""

import argparse
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

import foveal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "train"))
import pages

Question = tuple[str, str, str, tuple[float, float, float, float]]  # kind, question, answer, box in pixels


def parser(doc: str) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("mmproj")
    p.add_argument("--count", type=int, default=100, help="pictures of each kind")
    p.add_argument("--kinds", default="form,place")
    p.add_argument("--budgets", default="64,128")
    p.add_argument("--threads", type=int)
    return p


def load(args: argparse.Namespace) -> foveal.Model:
    return foveal.Model(args.model, args.mmproj, threads=args.threads, image_max_tokens=440)


def items(kind: str, count: int, questions: int) -> Iterator[tuple[Image.Image, list[Question]]]:
    """Test pages of a kind with that many questions about different places."""
    seed = made = 0
    while made < count:
        rng = random.Random(f"trust/{kind}/{seed}")
        seed += 1
        page = pages.make_page(kind, rng, "test", *rng.choice(pages.SIZES))
        asked = [q for q in page.qa if q[0] == kind]
        if len(asked) < questions:
            continue
        made += 1
        yield pages.draw(page), rng.sample(asked, questions)


def share(right: int, n: int) -> str:
    """Percent with Wilson's 95 % interval."""
    z, p = 1.96, right / n
    middle, half = (p + z * z / (2 * n)), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    return f"{100 * p:.1f} ({100 * low:.0f} to {100 * high:.0f})"
