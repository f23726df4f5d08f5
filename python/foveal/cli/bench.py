"""foveal bench: prefill and decode speed at given depths, a row a test as llama-bench prints it."""

import argparse
import json
import os
import statistics
import time
from typing import Any

import numpy as np

from ..errors import ArgumentError, FileError
from ..images import to_pixels
from ..kv import KV
from ..model import Model
from .setup import bytes_text, kv_options, load_model

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
HEADER = "| model | size | backend | KV | test | t/s |\n| --- | ---: | --- | ---: | ---: | ---: |"


def token_row(n: int, n_vocab: int, seed: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(0, n_vocab, n)]


def pack_weights(model: Model) -> None:
    """The first products read the weights from the file, the second ones pack them: neither is to be measured."""
    with model.session(n_ctx=2) as session:
        session.prefill([0])
        session.step(0)


def measure(model: Model, kv: KV, prompt: int, generate: int, depth: int, repetitions: int) -> dict[str, Any]:
    n_vocab = model.info["n_vocab"]
    speeds = []
    for i in range(repetitions + 1):  # the first one warms up
        with model.session(kv, depth + prompt + generate + 1) as session:
            if depth or generate:  # a decode test starts from at least one row
                session.prefill(token_row(max(1, depth), n_vocab, 1))
            ids = token_row(prompt or generate, n_vocab, 2)
            start = time.perf_counter()
            if prompt:
                session.prefill(ids)
            else:
                for token in ids:
                    session.step(token)
            seconds = time.perf_counter() - start
            held, peak = session.kv_bytes, session.kv_peak_bytes
        if i:
            speeds.append(len(ids) / seconds)
    test = (f"pp{prompt}" if prompt else f"tg{generate}") + (f" @ d{depth}" if depth else "")
    return {
        "model": f"{model.info['arch']} {model.info['file_type']}",
        "bytes": model.info["bytes"],
        "backend": model.info["backend"],
        "test": test,
        "n_prompt": prompt,
        "n_gen": generate,
        "n_depth": depth,
        "avg_ts": statistics.fmean(speeds),
        "stddev_ts": statistics.stdev(speeds) if len(speeds) > 1 else 0.0,
        "samples_ts": speeds,
        "kv_bytes": held,
        "kv_peak_bytes": peak,
    }


COMPARED = "| picture | rows | tokens | top-1 | mean KL | first divergence | KV saved | time saved |"


def compare_pictures(o: argparse.Namespace, model: Model, kv: KV) -> int:
    """The trust meter over a folder: one question about each picture, whole cache against budget."""
    try:
        paths = sorted(e.path for e in os.scandir(o.images) if e.name.lower().endswith(PICTURES))
    except OSError as e:
        raise FileError(f"{o.images}: {e.strerror}") from None
    if not paths:
        raise ArgumentError(f"{o.images}: found no picture ({', '.join(PICTURES)})")
    print(COMPARED + "\n|" + " --- |" + " ---: |" * 7, flush=True)
    for path in paths:
        with model.session() as session:
            pixels = to_pixels(path)
            rows = model._native.plan_image(pixels.shape[1], pixels.shape[0])["n_rows"]
            c = session.compare(o.question, images=[pixels], max_tokens=max(1, o.n_gen[0]), kv=kv)
        at = "-" if c.first_divergence is None else str(c.first_divergence)
        cells = f"{rows} | {len(c.tokens)} | {100 * c.top1:.1f} % | {c.mean_kl:.4f} | {at}"
        saved = f"{100 * c.bytes_saved / c.bytes_full:.1f} % | {c.ms_saved:.0f} ms"
        print(f"| {os.path.basename(path)} | {cells} | {saved} |", flush=True)
    return 0


def bench(o: argparse.Namespace) -> int:
    kv = kv_options(o)
    model, _ = load_model(o)
    if o.images:
        return compare_pictures(o, model, kv)
    tests = [
        (prompt, generate, depth)
        for depth in o.n_depth
        for prompt, generate in [(n, 0) for n in o.n_prompt if n] + [(0, n) for n in o.n_gen if n]
    ]
    if o.output == "md":
        print(HEADER, flush=True)
    pack_weights(model)
    rows = []
    for prompt, generate, depth in tests:
        row = measure(model, kv, prompt, generate, depth, o.repetitions)
        rows.append(row)
        if o.output == "md":
            speed = f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}"
            size, held = bytes_text(row["bytes"]), bytes_text(row["kv_bytes"])
            print(f"| {row['model']} | {size} | {row['backend']} | {held} | {row['test']} | {speed} |", flush=True)
    if o.output == "json":
        print(json.dumps(rows, indent=2))
    return 0
