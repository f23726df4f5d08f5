"""The run: plans the items, measures what isn't measured yet (several processes), writes results, table and plot."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import foveal
from foveal.errors import ArgumentError

from .arms import Arm, Keep, grid
from .items import Item, own_items, page_items
from .measure import measure
from .plot import svg
from .store import Store
from .summary import summary
from .table import markdown
from .text_items import text_items


@dataclass(frozen=True)
class Options:
    """What the command line says, checked by run()."""

    model: str
    mmproj: str | None
    output: str
    tasks: list[str] = field(default_factory=list)  # kinds of pages
    text: list[str] = field(default_factory=list)  # needle, multikey, prose
    lengths: list[int] = field(default_factory=lambda: [1000, 2000, 4000, 6000])
    data: str | None = None
    count: int = 200
    questions: int = 2  # on a picture, with protocol "after"
    policies: list[str] = field(default_factory=list)
    mixes: list[str] = field(default_factory=list)
    budgets: list[str] = field(default_factory=list)
    protocols: list[str] = field(default_factory=list)
    window: int = 32
    sinks: int = 0
    tables: str | None = None
    check: int = 2  # pictures a task whose arms are also run as sessions of their own
    threads: int = 1
    first_seed: int = 0
    command: str = ""


class Worker:
    """A loaded model and the list of items: what each process has."""

    def __init__(self, o: Options) -> None:
        self.o = o
        self.model = foveal.Model(o.model, mmproj=o.mmproj, threads=o.threads)
        if self.model.info["vision"] is None and (o.tasks or o.data):
            raise ArgumentError("tasks with pictures need --mmproj FILE, the picture encoder of the model")
        self.keep = Keep(o.window, o.sinks, o.tables)
        for budget in o.budgets:
            if budget.isascii() and budget.isdigit() and int(budget) < self.keep.least:
                least = f"at least {self.keep.least}: window {o.window} + sinks {o.sinks} + 1"
                raise ArgumentError(f"--budgets: found {budget}, expected {least}")
        self.arms = grid(o.policies, o.mixes, o.budgets, o.tables is not None)
        self.items: list[Callable[[], Item]] = []
        for kind in o.tasks:
            self.items += page_items(kind, o.count, o.questions, o.first_seed)
        if o.data:
            self.items += own_items(o.data, o.questions)[: o.count]
        for task in o.text:
            self.items += text_items(task, o.count, o.lengths, self.tokenize, self.model.detokenize)

    def tokenize(self, text: str) -> list[int]:
        return self.model.tokenize(text, False)

    def jobs(self) -> list[tuple[int, str]]:
        """(index of an item, protocol), items of different tasks in turn, so that a part of the run shows all."""
        per = max(1, self.o.count)
        order = sorted(range(len(self.items)), key=lambda i: (i % per, i // per))
        return [(i, protocol) for i in order for protocol in self.o.protocols]

    def run(self, job: tuple[int, str], done: frozenset[tuple[str, str, str]]) -> dict[str, Any]:
        """The item's cells; what is done already comes back without them."""
        index, protocol = job
        item = self.items[index]()
        if (item.task, item.key, protocol) in done:
            return {"task": item.task, "key": item.key, "protocol": protocol}
        check = index % max(1, self.o.count) < self.o.check
        return measure(self.model, item, self.arms, protocol, self.keep, check)


def digest(path: str | None) -> str | None:
    if path is None:
        return None
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(f)


def _digest(f: Any) -> str:
    h = hashlib.sha256()
    while block := f.read(1 << 20):
        h.update(block)
    return h.hexdigest()


def settings(o: Options, worker: Worker) -> dict[str, Any]:
    """What results must share to stand in one table. The number of items may grow."""
    return {
        "name": worker.model.info["name"] or worker.model.info["arch"],
        "model": digest(o.model), "mmproj": digest(o.mmproj), "tables": digest(o.tables), "data": digest(o.data),
        "version": foveal.__version__, "window": o.window, "sinks": o.sinks, "questions": o.questions,
        "arms": [a.id for a in worker.arms],
    }  # fmt: skip


def measured(o: Options, worker: Worker, store: Store, jobs: int, start: Callable[..., Any], task: Callable[..., Any]
             ) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Results as they come, in this process or in several; start and task are importable names for those."""
    done, todo = frozenset(store.done), worker.jobs()
    if jobs == 1:
        for job in todo:
            yield worker.run(job, done)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), start, (asdict(o), done)) as pool:
        yield from pool.map(task, todo)


def run(o: Options, jobs: int, start: Callable[..., Any], task: Callable[..., Any],
        step: Callable[[str, float], None]) -> dict[str, Any]:  # fmt: skip
    """Measures, and writes items.jsonl, results.json, table.md and plot.svg into the output folder."""
    if not (o.tasks or o.data or o.text):
        raise ArgumentError("evaluate: found no task, expected some of --tasks, --data, --text")
    worker = Worker(o)
    folder = Path(o.output)
    store = Store(folder / "items.jsonl", settings(o, worker))
    wanted = set()  # the file may hold more than this run asks for
    try:
        total = len(worker.items) * len(o.protocols)
        for i, result in enumerate(measured(o, worker, store, jobs, start, task)):
            wanted.add((result["task"], result["key"], result["protocol"]))
            if "cells" in result:
                store.add(result)
            step(f"{i + 1} of {total} items", (i + 1) / total)
    finally:
        store.close()
    results = [r for r in store.results if (r["task"], r["key"], r["protocol"]) in wanted]
    return write(folder, o.command, store.settings, results, worker.arms)


def write(
    folder: Path, command: str, about: dict[str, Any], results: list[dict[str, Any]], arms: Iterable[Arm]
) -> dict[str, Any]:
    found = summary(results, list(arms))
    (folder / "results.json").write_text(
        json.dumps({"command": command, "settings": about, "protocols": found}, indent=1)
    )
    (folder / "table.md").write_text(markdown(found, about, command))
    (folder / "plot.svg").write_text(svg(found))
    return found


def physical_cores() -> int:
    return max(1, (os.cpu_count() or 2) // 2)
