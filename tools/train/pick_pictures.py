"""Built-in demo pictures: test pages all of whose asked questions the checkpoint answers rightly.

pick_pictures.py CHECKPOINT OUT_DIR --kinds form,place: one PNG a kind, and demo.json, a list of {image, question,
answer}.
"""

import argparse
import json
import random
from pathlib import Path

import pages
from evaluate import Model


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkpoint")
    p.add_argument("out", type=Path)
    p.add_argument("--kinds", default="form,place,text")
    p.add_argument("--questions", type=int, default=3, help="a picture")
    p.add_argument("--tries", type=int, default=60, help="pages looked at per kind")
    args = p.parse_args()
    model, items = Model(args.checkpoint, "cpu"), []
    args.out.mkdir(parents=True, exist_ok=True)
    for kind in args.kinds.split(","):
        for seed in range(args.tries):
            rng = random.Random(f"demo/{kind}/{seed}")
            page = pages.make_page(kind, rng, "test", *pages.SIZES[0])
            image, right = pages.draw(page), []
            asked = [q for q in page.qa if q[0] == kind]
            for _, question, answer, _box in rng.sample(asked, min(args.questions + 2, len(asked))):
                given = model.answer(image, question, answer)
                if given == answer:
                    right.append({"image": f"{kind}.png", "question": question, "answer": answer})
            if len(right) >= min(args.questions, len(asked)):
                image.save(args.out / f"{kind}.png")
                items += right[: args.questions]
                print(f"{kind}: page {seed}, {len(right)} right answers")
                break
        else:
            print(f"{kind}: no page with enough right answers in {args.tries}")
    (args.out / "demo.json").write_text(json.dumps(items, indent=1) + "\n")


if __name__ == "__main__":
    main()
