"""foveal evaluate: what every policy costs a model, in accuracy, divergence, bytes and time."""

import argparse
import os
import shlex
import sys
from typing import Any

from ..errors import ArgumentError
from .harness import harness
from .setup import Steps

DEFAULTS = {
    "count": 200,
    "policies": "full,random,streaming,snapkv,pyramidkv,adakv,sparsemm",
    "mixes": "none,mixkv,sharp,vnorm,keydiff,fixed",
    "budgets": "64,128,256,512,5%,10%,20%",
}
QUICK = {
    "count": 20,
    "policies": "full,random,streaming,snapkv,adakv",
    "mixes": "none,mixkv,sharp",
    "budgets": "64,128",
}
_worker: Any = None
_done: Any = None


def start_worker(options: Any, done: Any) -> None:
    """In a process of its own: loads the model."""
    global _worker, _done
    run = harness("run")
    _worker, _done = run.Worker(run.Options(**options)), done


def run_job(job: tuple[int, str]) -> Any:
    return _worker.run(job, _done)


def names(text: str) -> list[str]:
    """Of a list with commas, each once."""
    return [] if text in ("", "none") else listed(text)


def listed(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",")))


def evaluate(o: argparse.Namespace) -> int:
    if not o.model:
        raise ArgumentError("-m FILE is missing")
    for name, value in (DEFAULTS | (QUICK if o.quick else {})).items():
        if getattr(o, name) is None:
            setattr(o, name, value)
    run = harness("run")
    own = bool(o.data or o.text)
    tasks = "form,place,text,ground,chart" if o.tasks is None and not own else o.tasks or ""
    protocols = ["inside", "after"] if o.protocol == "both" else [o.protocol]
    options = run.Options(
        model=o.model, mmproj=o.mmproj, output=o.output, tasks=names(tasks), text=names(o.text or ""),
        lengths=list(dict.fromkeys(o.lengths)),
        data=o.data, count=o.count, questions=o.questions, policies=names(o.policies),
        mixes=listed(o.mixes), budgets=names(o.budgets), protocols=protocols, window=o.kv_window,
        sinks=o.kv_sinks, tables=o.kv_tables, check=o.check, threads=o.threads or 1, first_seed=o.first_seed,
        command="foveal evaluate " + shlex.join(plain(sys.argv[2:])),
    )  # fmt: skip
    with Steps() as step:
        run.run(options, o.jobs or run.physical_cores(), start_worker, run_job, step)
    with open(os.path.join(o.output, "table.md"), encoding="utf-8") as table:
        print(table.read())
    return 0


def plain(args: list[str]) -> list[str]:
    """The command line with file names in place of paths: what another machine would type."""
    return [os.path.basename(a) if os.sep in a and os.path.exists(a) else a for a in args]
