"""Image encoding, Foveal against llama.cpp's mtmd on the same files, in turns: encoder time and the whole command up to
the first token (loading included).

    python tools/bench/vision.py --case NAME MODEL.gguf MMPROJ.gguf PICTURE [--case ...] --foveal build/foveal
        --llama-mtmd PATH/llama-mtmd-cli [--rounds 5] [--threads 2] [--vision-precision auto]
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import time


def run(command: list[str], pattern: str) -> tuple[float, float]:
    """Milliseconds that the program reports for its encoder (all pictures), and of the whole command."""
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    whole = (time.perf_counter() - start) * 1e3
    found = re.findall(pattern, (done.stdout + done.stderr).decode(errors="replace"))
    if not found:
        raise SystemExit(f"{command[0]}: no encoder time in its output")
    return sum(float(ms) for ms in found), whole


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--case", nargs=4, action="append", required=True, metavar=("NAME", "MODEL", "MMPROJ", "PICTURE")
    )
    parser.add_argument("--foveal", required=True)
    parser.add_argument("--llama-mtmd", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="2")
    parser.add_argument("--vision-precision", default="auto")
    args = parser.parse_args()
    print("| picture | measured | Foveal, ms | llama.cpp, ms | ratio |\n| --- | --- | --- | --- | ---: |")
    for name, model, mmproj, picture in args.case:
        common = ["-m", model, "--mmproj", mmproj, "--image", picture, "-p", "What is it?", "-n", "1"]
        common += ["-t", args.threads, "--temp", "0", "--chat-template"]
        own = ["--vision-precision", args.vision_precision]
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(run([args.foveal, "run", "--stats", *own, *common, "chatml"], r"pictures\s+([0-9.]+) ms"))
            theirs.append(run([args.llama_mtmd, *common, "chatml"], r"encod\w+ (?:done )?in ([0-9.]+) ms"))
        for i, what in enumerate(("encoder", "whole command to the first token")):
            a, b = [o[i] for o in ours], [t[i] for t in theirs]
            ratio = statistics.median(b) / statistics.median(a)
            print(f"| {name} | {what} | {spread(a)} | {spread(b)} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
