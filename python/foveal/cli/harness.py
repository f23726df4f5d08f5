"""Finds the evaluation's code: in the installed package, or in tools/evaluate of the checkout that this file is in."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from ..errors import ArgumentError

NAME = "foveal.evaluate"


def harness(module: str) -> ModuleType:
    """The module foveal.evaluate.`module`."""
    if NAME not in sys.modules and importlib.util.find_spec(NAME) is None:
        folder = Path(__file__).resolve().parents[3] / "tools" / "evaluate"
        first = folder / "__init__.py"
        if not first.exists():
            raise ArgumentError(
                f"the evaluation's code: found neither the package {NAME} nor {folder}; reinstall foveal"
            )
        spec = importlib.util.spec_from_file_location(NAME, first, submodule_search_locations=[str(folder)])
        if spec is None or spec.loader is None:
            raise ArgumentError(f"{first}: can't be loaded")
        package = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"{NAME}.{module}")
