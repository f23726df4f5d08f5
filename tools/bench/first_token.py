"""From the start of the program to the first token, file cache warm, Foveal against llama.cpp in turns: load, a prompt
of 16 tokens, logits. llama.cpp by `llama-bench --no-warmup`, the least that it does for them.

    python tools/bench/first_token.py MODEL.gguf... --foveal build/foveal --llama-bench PATH [--rounds 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from pathlib import Path

PROMPT = "The quick brown fox jumps over the lazy dog and then goes on home again"


def milliseconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1e3


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--foveal", required=True)
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="2")
    args = parser.parse_args()
    print("| model | Foveal, ms | llama.cpp, ms | ratio |\n| --- | --- | --- | ---: |")
    for model in args.models:
        common = ["-m", str(model), "-t", args.threads]
        our_run = [args.foveal, "run", *common, "-p", PROMPT, "--raw", "-n", "1", "--temp", "0"]
        their_run = [args.llama_bench, *common, "-p", "16", "-n", "0", "-r", "1", "--no-warmup"]
        milliseconds(our_run), milliseconds(their_run)
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(milliseconds(our_run))
            theirs.append(milliseconds(their_run))
        ratio = statistics.median(theirs) / statistics.median(ours)
        print(f"| {model.stem} | {spread(ours)} | {spread(theirs)} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
