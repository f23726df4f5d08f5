"""Foveal against llama.cpp on the same GGUF files, in turns, in one run: medians, spreads, ratios.

    python tools/bench/compare.py MODEL.gguf... --foveal build/foveal --llama-bench PATH
        [-p 512] [-n 64] [-d 0,2048,8192] [--budget 256] [--rounds 5] [--threads 2] [--markdown FILE]

A round runs every test once with one engine, then with the other, so that both see the same machine. `--budget` adds
decode rows at every depth above 0 with Foveal's KV cache held to that many rows per head. The machine's own limits:
`bench_kernels`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from pathlib import Path

Speeds = dict[tuple[str, str], list[float]]


def rows(command: list[str]) -> list[dict]:
    """Runs a bench program and returns its JSON rows."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_name(row: dict) -> str:
    kind = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
    return f"{kind} @ d{row['n_depth']}" if row["n_depth"] else kind


def tests(args: argparse.Namespace) -> list[list[str]]:
    """Arguments of each test: prefill once, decode at every depth."""
    decode = [["-p", "0", "-n", args.n, "-d", d] for d in args.d.split(",")]
    return [["-p", args.p, "-n", "0", "-d", "0"], *decode]


def run_round(args: argparse.Namespace, model: Path, speeds: Speeds) -> None:
    common = ["-m", str(model), "-t", args.threads, "-r", "1", "-o", "json"]
    for test in tests(args):
        for engine, program in (("foveal", args.foveal), ("llama.cpp", args.llama_bench)):
            for row in rows([program, "bench", *common, *test] if engine == "foveal" else [program, *common, *test]):
                speeds.setdefault((test_name(row), engine), []).append(row["avg_ts"])
    for depth in args.d.split(",") if args.budget else []:
        if depth == "0":
            continue
        held = ["-p", "0", "-n", args.n, "-d", depth, "--kv-budget", args.budget]
        for row in rows([args.foveal, "bench", *common, *held]):
            speeds.setdefault((test_name(row), f"foveal, budget {args.budget}"), []).append(row["avg_ts"])


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def table(model: Path, speeds: Speeds) -> list[str]:
    lines = []
    for (test, engine), ours in speeds.items():
        if engine == "llama.cpp":
            continue
        theirs = speeds[(test, "llama.cpp")]
        ratio = statistics.median(ours) / statistics.median(theirs)
        lines.append(f"| {model.stem} | {test} | {engine} | {spread(ours)} | {spread(theirs)} | {ratio:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--foveal", required=True)
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("-p", default="512")
    parser.add_argument("-n", default="64")
    parser.add_argument("-d", default="0")
    parser.add_argument("--budget")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="2")
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    out = [
        "| model | test | engine | tokens/s, median (spread) | llama.cpp | ratio |",
        "| --- | --- | --- | --- | --- | ---: |",
    ]
    for model in args.models:
        speeds: Speeds = {}
        for _ in range(args.rounds):
            run_round(args, model, speeds)
        out += table(model, speeds)
        print("\n".join(out[-len(table(model, speeds)) :]), flush=True)
    text = "\n".join(out) + "\n"
    print("\n" + text)
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
