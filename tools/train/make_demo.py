"""From nothing to the GGUF pair, one command: make_demo.py --out DIR [--device cuda] [--minutes 120].

Runs the stages that are not done yet (DIR/done.json says which), each for its share of the minutes, then exports and
measures. Interrupted, it goes on with the stage it was in, from that stage's last checkpoint.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
# name, stage, share of the minutes, arguments on a CPU, further arguments on a GPU (last ones win)
PLAN = [
    ("glyphs", "encoder", 0.20, ["--budget", "1000", "--rate", "2.5e-3", "--whole", "0.1"], ["--budget", "24000"]),
    ("pages", "encoder", 0.15, ["--budget", "1500", "--rate", "1.5e-3", "--whole", "0.7"], ["--budget", "24000"]),
    ("copying", "decoder", 0.25, ["--level", "1", "--grow", "0.5"], ["--budget", "120000", "--tell", "20"]),
    (
        "reading",
        "decoder",
        0.25,
        ["--level", "4", "--rate", "1e-3", "--carry", "--mix", "form=4,place=2,text=4,ground=0.1,chart=3"],
        ["--budget", "120000", "--tell", "20"],
    ),
    ("places", "places", 0.10, [], []),
    ("joint", "joint", 0.05, ["--rate", "5e-4"], ["--budget", "60000", "--tell", "30"]),
]


def run(script, *args):
    command = [sys.executable, str(HERE / script), *map(str, args)]
    print("+", *command[1:], flush=True)
    subprocess.run(command, check=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--minutes", type=float, default=240, help="for all stages together")
    p.add_argument("--workers", type=int, default=0, help="processes that draw pages")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--count", type=int, default=200, help="test pictures per kind at the end")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    record = args.out / "done.json"
    done = json.loads(record.read_text()) if record.exists() else {}
    for name, stage, share, plain, large in PLAN:
        if name in done:
            continue
        start = time.time()
        run(
            "train.py",
            "--stage",
            stage,
            "--out",
            args.out,
            "--minutes",
            share * args.minutes,
            "--device",
            args.device,
            "--workers",
            args.workers,
            "--seed",
            args.seed,
            *plain,
            *(large if args.device == "cuda" else []),
        )
        done[name] = {"minutes": round((time.time() - start) / 60, 1), "device": args.device}
        record.write_text(json.dumps(done, indent=1))
    if importlib.util.find_spec("gguf"):
        run("export.py", args.out / "joint.pt", args.out, "--type", "q8_0")  # as f16 it would be 18.5 MB
    else:
        print("no package gguf here: run export.py where there is one")
    run("evaluate.py", args.out / "joint.pt", "--count", args.count, "--device", args.device)


if __name__ == "__main__":
    main()
