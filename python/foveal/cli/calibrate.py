"""foveal calibrate: the tables of a model, from the built-in pages or from items of your own with boxes."""

import argparse
import os
import random
from pathlib import Path
from typing import Any

from ..calibrate import Calibration
from ..errors import ArgumentError, FileError
from ..model import Model
from .evaluate import names
from .harness import harness
from .setup import Steps, note


def calibrate(o: argparse.Namespace) -> int:
    if not o.model:
        raise ArgumentError("-m FILE is missing")
    items, measure, run = harness("items"), harness("measure"), harness("run")
    kinds = "form,place,text,ground,chart" if o.tasks is None and not o.data else o.tasks or ""
    made: list[Any] = []
    for kind in names(kinds):  # pages with the training's words: none that an evaluation asks about
        made += items.page_items(kind, o.count, 1, 1_000_000, "train")
    if o.data:
        made += items.own_items(o.data, 1)
    if not made:
        raise ArgumentError("calibrate: found no item, expected some of --tasks, --data")
    folder = Path(o.output).absolute().parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise FileError(f"{folder}: no folder that can be written to")
    random.Random(0).shuffle(made)
    model = Model(o.model, mmproj=o.mmproj, threads=o.threads)
    if model.info["vision"] is None:
        raise ArgumentError("calibrate needs --mmproj FILE, the picture encoder of the model")
    calibration = Calibration(model)
    with Steps() as step:
        for i, make in enumerate(made):
            item = make()
            frame, question = measure.Frame(model, item), item.questions[0]
            calibration.add(frame.head + frame.question(question), question.answer, question.box)
            step(f"{i + 1} of {len(made)} items", (i + 1) / len(made))
    tables = calibration.tables()
    tables.about = {
        "model.sha256": run.digest(o.model),
        "items": f"{tables.n_items}, {tables.n_scored} with a region; {kinds or o.data}",
    }
    tables.save(o.output)
    best = tables.head_scores / tables.head_scores.sum()
    note(f"{o.output}: {tables.n_scored} of {tables.n_items} items scored heads")
    print("| layer | share of each head's score, % | r of each KV head |")
    print("|---:|---|---|")
    for il, (share, r) in enumerate(zip(best, tables.head_weight)):
        print(f"| {il} | {' '.join(f'{100 * x:.1f}' for x in share)} | {' '.join(f'{x:.3f}' for x in r)} |")
    return 0
