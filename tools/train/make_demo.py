"""From nothing to the GGUF pair, one command: make_demo.py --out DIR [--device cuda] [--minutes 120].

Trains the two halves at the same time, each for its shares of the minutes, then the decoder on what the encoder reads;
exports and measures. DIR/STAGE.done.json says that a stage is done. Interrupted, it goes on with the stages it was in,
from their last checkpoints.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
MIX = "form=3,place={},text={},ground={},chart=4"
LARGE = ["--budget", "120000", "--tell", "20"]
# per half: name, stage, share of the minutes, arguments on a CPU, further arguments on a GPU (last ones win)
HALVES = [
    [
        ("glyphs", "encoder", 0.17, ["--budget", "1000", "--rate", "2.5e-3", "--whole", "0.1"], ["--budget", "24000"]),
        ("pages", "encoder", 0.26, ["--budget", "1500", "--rate", "1.5e-3", "--whole", "0.7"], ["--budget", "24000"]),
        ("again", "encoder", 0.11, ["--budget", "1500", "--rate", "1e-3", "--whole", "0.9"], ["--budget", "24000"]),
    ],
    [
        ("copying", "decoder", 0.13, ["--level", "1", "--grow", "0.5", "--mix", MIX.format(1.5, 5, 0.1)], LARGE),
        ("places", "places", 0.03, [], []),
        ("placed", "decoder", 0.20, ["--level", "4", "--rate", "1e-3", "--mix", MIX.format(1.5, 5, 1)], LARGE),
        ("places-again", "places", 0.03, [], []),
        ("settled", "decoder", 0.15, ["--level", "4", "--rate", "1e-3", "--mix", MIX.format(1.5, 5, 1)], LARGE),
    ],
]
JOINT = [
    (
        "joint",
        "joint",
        0.46,
        ["--frozen", "--rate", "1e-3", "--tell", "180", "--mix", MIX.format(2, 10, 1)],
        ["--budget", "60000", "--tell", "30"],
    )
]


def run(script, *args):
    command = [sys.executable, str(HERE / script), *map(str, args)]
    print("+", *command[1:], flush=True)
    subprocess.run(command, check=True)


def train(plan, args, threads):
    """The stages of a plan that are not done yet, in order."""
    shared = ["--out", args.out, "--device", args.device, "--workers", args.workers]
    for i, (name, stage, share, plain, large) in enumerate(plan):
        record = args.out / f"{name}.done.json"
        if record.exists():
            continue
        start = time.time()
        mine = ["--minutes", share * args.minutes, "--threads", threads, "--seed", args.seed and 100 * args.seed + i]
        run("train.py", "--stage", stage, *shared, *mine, *plain, *(large if args.device == "cuda" else []))
        record.write_text(json.dumps({"minutes": round((time.time() - start) / 60, 1), "device": args.device}))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--minutes", type=float, default=120, help="for all stages together")
    p.add_argument("--workers", type=int, default=0, help="processes that draw pages")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--count", type=int, default=200, help="test pictures per kind at the end")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor() as halves:
        for half in [halves.submit(train, plan, args, max(1, cores // 2)) for plan in HALVES]:
            half.result()
    train(JOINT, args, cores)
    if importlib.util.find_spec("gguf"):
        run("export.py", args.out / "joint.pt", args.out, "--type", "q8_0")  # as f16 it would be 18.5 MB
    else:
        print("no package gguf here: run export.py where there is one")
    run("evaluate.py", args.out / "joint.pt", "--count", args.count, "--device", args.device)


if __name__ == "__main__":
    main()
