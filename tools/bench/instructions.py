"""Instructions per token, counted by callgrind, which doesn't depend on how busy the machine is: a prompt token and a
decoded one. Each is the difference of two runs, so that loading drops out; one thread, AVX2 (valgrind has no AVX-512).

    python tools/bench/instructions.py MODEL.gguf... --foveal build/foveal
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from pathlib import Path


def instructions(program: str, model: Path, n_prompt: int, n_gen: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, "bench", "-m", str(model)]
    command += ["-t", "1", "-r", "1", "-p", str(n_prompt), "-n", str(n_gen)]
    env = {**os.environ, "FOVEAL_FORCE_ISA": "avx2"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if not found:
        raise SystemExit(f"no count in valgrind's output:\n{done.stderr}")
    return int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--foveal", required=True)
    args = parser.parse_args()
    print("| model | of a prompt token, from 16 to 48 | of a decoded token, from 2 to 6 |\n| --- | ---: | ---: |")
    for model in args.models:
        runs = 2  # bench warms up once
        prompt = instructions(args.foveal, model, 48, 0) - instructions(args.foveal, model, 16, 0)
        decode = instructions(args.foveal, model, 0, 6) - instructions(args.foveal, model, 0, 2)
        print(f"| {model.stem} | {prompt / runs / 32 / 1e6:.2f} M | {decode / runs / 4 / 1e6:.2f} M |", flush=True)


if __name__ == "__main__":
    main()
