#!/usr/bin/env python3
"""llama-bench's flags and JSON rows for the llama.cpp inside the xllamacpp wheel, by its own timings:

python tools/bench/compare.py MODEL.gguf --foveal build/foveal --llama-bench tools/bench/xllamacpp_bench.py
"""

from __future__ import annotations

import argparse
import json

import xllamacpp


def ask(server: xllamacpp.Server, n_prompt: int, n_gen: int, seed: int) -> dict:
    """Timings of one completion of token ids that look like text to nobody."""
    ids = [1000 + (seed * 7919 + i * 613) % 20000 for i in range(max(1, n_prompt))]
    body = {
        "prompt": ids,
        "n_predict": max(1, n_gen),
        "cache_prompt": False,
        "ignore_eos": True,
        "temperature": 0.0,
    }
    answer = server.handle_completions(body)
    return (json.loads(answer) if isinstance(answer, str) else answer)["timings"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", required=True)
    parser.add_argument("-t", type=int, default=2)
    parser.add_argument("-r", type=int, default=5)
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-n", type=int, default=128)
    parser.add_argument("-d", type=int, default=0)
    parser.add_argument("-o", default="json", choices=["json"])
    args = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = args.m
    params.n_ctx = args.d + args.p + args.n + 64
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.t
    params.verbosity = -1
    server = xllamacpp.Server(params)
    depth = args.d if args.p == 0 else args.p
    ask(server, min(depth, 64), 4, 1)  # warms up
    speeds = []
    for i in range(args.r):
        timings = ask(server, depth, args.n, i + 2)
        speeds.append(timings["prompt_per_second" if args.p else "predicted_per_second"])
    row = {"n_prompt": args.p, "n_gen": 0 if args.p else args.n, "n_depth": args.d}
    print(json.dumps([{**row, "avg_ts": sum(speeds) / len(speeds), "samples_ts": speeds}]))


if __name__ == "__main__":
    main()
