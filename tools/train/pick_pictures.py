"""Built-in demo pictures: test pages whose asked questions the files to be shipped answer rightly with the full cache.

pick_pictures.py MODEL.gguf MMPROJ.gguf OUT_DIR --kinds form,place: one PNG a kind, and demo.json, a list of {image,
question, answer}. Runs in Foveal; what a budget makes of the same questions is not looked at.
"""

import argparse
import json
import random
from pathlib import Path

import pages

import foveal


def right_answers(model, image, asked):
    """Those of (kind, question, answer, box) that the model answers to the letter."""
    right = []
    for q in asked:
        with model.session() as session:
            if session.chat(q[1], images=[image], max_tokens=96).text.strip() == q[2]:
                right.append(q)
    return right


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("mmproj")
    p.add_argument("out", type=Path)
    p.add_argument("--kinds", default="form,place,text")
    p.add_argument("--questions", type=int, default=2, help="a picture")
    p.add_argument("--tries", type=int, default=60, help="pages looked at per kind")
    args = p.parse_args()
    model, items = foveal.Model(args.model, args.mmproj, image_max_tokens=440), []
    args.out.mkdir(parents=True, exist_ok=True)
    for kind in args.kinds.split(","):
        for seed in range(args.tries):
            rng = random.Random(f"demo/{kind}/{seed}")
            page = pages.make_page(kind, rng, "test", *pages.SIZES[0])
            asked = list({q[2]: q for q in page.qa if q[0] == kind}.values())  # one question an answer
            if len(asked) < args.questions:
                continue
            image = pages.draw(page)
            right = right_answers(model, image, rng.sample(asked, min(args.questions + 1, len(asked))))
            if len(right) >= args.questions:
                image.save(args.out / f"{kind}.png", optimize=True)
                items += [{"image": f"{kind}.png", "question": q[1], "answer": q[2]} for q in right[: args.questions]]
                print(f"{kind}: page {seed}, {len(right)} right answers", flush=True)
                break
        else:
            print(f"{kind}: no page with enough right answers in {args.tries}", flush=True)
    (args.out / "demo.json").write_text(json.dumps(items, indent=1) + "\n")


if __name__ == "__main__":
    main()
