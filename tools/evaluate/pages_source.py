"""Finds the generator of pages: beside this file in an installed package, in tools/train in a checkout."""

import functools
import importlib
import sys
from pathlib import Path
from types import ModuleType

from foveal.errors import ArgumentError

HERE = Path(__file__).resolve().parent
PLACES = (HERE / "drawing", HERE.parent / "train")


@functools.cache
def pages() -> ModuleType:
    """The module `pages` with its words. ArgumentError where neither place has it."""
    for folder in PLACES:
        if (folder / "pages.py").exists() and (folder / "words.py").exists():
            sys.path.insert(0, str(folder))
            try:
                return importlib.import_module("pages")
            finally:
                sys.path.remove(str(folder))
    raise ArgumentError(
        "built-in pages: found pages.py and words.py in none of "
        + ", ".join(map(str, PLACES))
        + ", expected them in an installed package or a checkout; your own items: --data FILE.jsonl"
    )
