"""From flags to a loaded model and a session; statistics as text."""

import argparse
import os
import sys
import threading
import time
from typing import Any

from ..errors import ArgumentError
from ..kv import KV
from ..model import Model
from ..progress import Progress
from ..reply import Stats
from ..session import Session, generate_options


class ProgressLine:
    """Shows what a long call is doing on standard error, when that is a terminal; one line, erased at the end."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "ProgressLine":
        if sys.stderr.isatty():
            self._thread = threading.Thread(target=self._show, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread:
            self._thread.join()

    def _show(self) -> None:
        time.sleep(0.3)
        shown = False
        while not self._done.wait(0.1):
            what, share = self._progress.read()
            if what:
                print(f"\r\033[K{what} {100 * share:3.0f} %", end="", file=sys.stderr, flush=True)
                shown = True
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


class Steps:
    """Called with each step of a long call: shown on standard error when that is a terminal, erased at the end."""

    def __enter__(self) -> "Steps":
        self._shown = sys.stderr.isatty()
        return self

    def __call__(self, what: str, share: float) -> None:
        if self._shown:
            print(f"\r\033[K{100 * share:3.0f} % {what}", end="", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def load_model(o: argparse.Namespace) -> tuple[Model, Progress]:
    if not o.model:
        raise ArgumentError("-m FILE is missing")
    if getattr(o, "image", None) and not o.mmproj:
        raise ArgumentError("--image needs --mmproj FILE, the picture encoder of the model")
    progress = Progress()
    with ProgressLine(progress):
        model = Model(
            o.model,
            mmproj=o.mmproj,
            device=o.device,
            gpu_layers=o.gpu_layers,
            stream_prefill=o.stream_prefill,
            threads=o.threads,
            image_min_tokens=getattr(o, "image_min_tokens", None),
            image_max_tokens=getattr(o, "image_max_tokens", None),
            vision_precision=getattr(o, "vision_precision", "auto"),
            mmproj_offload=not getattr(o, "no_mmproj_offload", False),
            chat_template=getattr(o, "chat_template", None),
            progress=progress,
        )
    if model.info["placement"]:
        note(model.info["placement"])
    return model, progress


def open_session(o: argparse.Namespace, model: Model, kv: KV) -> Session:
    """A new session, or the one in --session FILE, whose own KV options then hold."""
    if not o.session or not os.path.lexists(o.session):
        return model.session(kv, o.ctx_size or None)
    if model._jinja:
        raise ArgumentError("--session takes no --chat-template jinja, which needs the whole conversation each time")
    session = model.load_session(o.session)
    budget = "none" if session.kv.budget is None else session.kv.budget
    note(f"{o.session}: {session.n_tokens} tokens, kv budget {budget} and context {session.n_ctx} as saved")
    if session.n_tokens and getattr(o, "system_prompt", None):
        note("note: --system-prompt is left out, the conversation has begun already")
    return session


def kv_options(o: argparse.Namespace) -> KV:
    return KV(
        budget=None if o.kv_budget == "none" else o.kv_budget,
        policy=o.kv_policy,
        mix=o.kv_mix,
        window=o.kv_window,
        sinks=o.kv_sinks,
        scope=o.kv_scope,
        slack=o.kv_slack,
        tables=o.kv_tables,
        seed=o.kv_seed,
        dtype=o.kv_type,
        on_full=o.kv_on_full,
        pin=o.kv_pin,
    )


def sampling(o: argparse.Namespace) -> dict[str, Any]:
    return generate_options(
        max_tokens=o.predict,
        temperature=o.temp,
        top_k=o.top_k,
        top_p=o.top_p,
        min_p=o.min_p,
        repeat_penalty=o.repeat_penalty,
        repeat_last_n=o.repeat_last_n,
        seed=None if o.seed == -1 else o.seed,
        stop=o.stop,
        ignore_eos=getattr(o, "ignore_eos", False),
    )


def image_paths(o: argparse.Namespace) -> list[str]:
    """Files of the --image flags: lists with commas, unless a file has that very name."""
    paths: list[str] = []
    for value in o.image:
        paths += [value] if os.path.exists(value) else value.split(",")
    return paths


def bytes_text(n: int) -> str:
    if n >= 1 << 30:
        return f"{n / (1 << 30):.2f} GiB"
    return f"{n / (1 << 20):.1f} MiB" if n >= 1 << 20 else f"{n / 1024:.1f} KiB"


def describe_turn(s: Stats) -> str:
    def speed(tokens: int, ms: float) -> str:
        return f"{tokens} tokens, {1000 * tokens / ms:.1f} tokens/s" if ms > 0 else f"{tokens} tokens"

    lines = []
    if s.image_tokens:
        lines.append(f"pictures  {s.ms.image_encode:.1f} ms, {s.image_tokens} rows")
    reused = f", {s.cached_tokens} reused" if s.cached_tokens else ""
    lines += [
        f"prefill   {s.ms.prefill:.1f} ms, {speed(s.prompt_tokens - s.cached_tokens, s.ms.prefill)}{reused}",
        f"eviction  {s.ms.evict:.1f} ms, {s.kv.evictions} times",
        f"decode    {s.ms.decode:.1f} ms, {speed(s.completion_tokens, s.ms.decode)}, ended by {s.finish_reason}",
        f"KV        {bytes_text(s.kv.bytes)} held, {bytes_text(s.kv.bytes_without_eviction)} without eviction, "
        f"peak {bytes_text(s.kv.bytes_peak)}; rows per head {s.kv.rows_min} to {s.kv.rows_max}, "
        f"mean {s.kv.rows_mean:.1f}",
        f"seed      {s.seed}",
    ]
    return "\n".join(lines)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
