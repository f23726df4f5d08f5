"""How long a decoding session stops to evict: evict_round.py MODEL.gguf [--budget 256] [--rows 290] [--rounds 12].

Each round evicts every layer of a fork of a session that holds that many rows, back to the budget. Prints the median.
"""

import argparse
import statistics
import time

import foveal


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--budget", type=int, default=256)
    p.add_argument("--rows", type=int, default=290)
    p.add_argument("--rounds", type=int, default=12)
    p.add_argument("--mix", default="mixkv")
    args = p.parse_args()
    model = foveal.Model(args.model)
    session, took = model.session(), []
    session.prefill([model.tokenizer.encode(" word")[-1]] * args.rows)
    for _ in range(args.rounds):
        with session.fork() as fork:
            start = time.perf_counter()
            fork.evict(foveal.KV(budget=args.budget, mix=args.mix))
            took.append(1e3 * (time.perf_counter() - start))
    print(f"{statistics.median(took):.2f} ms (from {min(took):.2f} to {max(took):.2f}, {args.rounds} rounds)")


if __name__ == "__main__":
    main()
