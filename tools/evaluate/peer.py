"""Whether llama.cpp gives the same answers with the same GGUF pair: peer.py -m MODEL --mmproj FILE --cli PROGRAM.

Both answer greedily with the whole cache; the built-in pages are asked about. A Markdown table goes to stdout, answers
that differ to stderr. --output keeps both programs' answers, so that an interrupted run goes on.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import foveal
from foveal.cli.harness import harness
from foveal.kv import KV


def ours(model: foveal.Model, image: object, question: str, most: int) -> str:
    with model.session(KV()) as session:
        return str(session.chat(question, images=[image], max_tokens=most))


def theirs(cli: str, model: str, mmproj: str, picture: str, question: str, most: int, threads: int) -> str:
    """The program writes from a thread of its own and can end before its last piece is out: such output lacks the line
    breaks that close an answer, and is asked for again."""
    args = ["-m", model, "--mmproj", mmproj, "--image", picture, "-p", question, "-n", str(most), "--temp", "0"]
    for _ in range(8):
        done = subprocess.run(
            [cli, *args, "-t", str(threads), "--no-warmup"], capture_output=True, text=True, check=True
        )
        if done.stdout.endswith("\n\n"):
            break
    return done.stdout.strip()


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--mmproj", required=True)
    p.add_argument("--cli", default="llama-mtmd-cli", help="llama.cpp's program")
    p.add_argument("--tasks", default="form,place,text,ground,chart")
    p.add_argument("--count", type=int, default=40, help="pages of each kind")
    p.add_argument("-n", type=int, default=48, help="tokens of an answer")
    p.add_argument("-t", "--threads", type=int, default=1)
    p.add_argument("--output", default="peer.jsonl")
    o = p.parse_args()
    pages, model = harness("pages_source").pages(), foveal.Model(o.model, mmproj=o.mmproj, threads=o.threads)
    about = {"model": harness("run").digest(o.model), "mmproj": harness("run").digest(o.mmproj), "n": o.n}
    store = harness("store").Store(Path(o.output), about)
    with tempfile.TemporaryDirectory() as folder:
        picture = f"{folder}/page.png"
        for seed in range(o.count):
            for kind in o.tasks.split(","):
                if (kind, str(seed), "") in store.done:
                    continue
                image, question, answer, box = pages.make_item(kind, seed, "test")
                image.save(picture)
                a = ours(model, image, question, o.n).strip()
                b = theirs(o.cli, o.model, o.mmproj, picture, question, o.n, o.threads)
                right = [bool(pages.is_right(kind, answer, given, box, image.size)) for given in (a, b)]
                store.add({"task": kind, "key": str(seed), "protocol": "", "ours": a, "theirs": b, "right": right})
    store.close()
    print("| kind | items | same answer | right here | right in llama.cpp |\n| --- | ---: | ---: | ---: | ---: |")
    for kind in [*o.tasks.split(","), "all"]:
        rows = [r for r in store.results if kind in ("all", r["task"])]
        shares = [sum(x) / len(rows) for x in zip(*((r["ours"] == r["theirs"], *r["right"]) for r in rows))]
        print(f"| {kind} | {len(rows)} | " + " | ".join(f"{100 * x:.1f} %" for x in shares) + " |")
    for r in store.results:
        if r["ours"] != r["theirs"]:
            print(json.dumps(r), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
