"""Shared by all tests: the test data, and one build of the C++ tests and the command line program."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    return DATA


@pytest.fixture(scope="session")
def cpp_build(request: pytest.FixtureRequest) -> Path:
    """A build folder with the C++ tests and the program `foveal`, kept between runs; FOVEAL_CPP_BUILD names another."""
    folder = Path(os.environ.get("FOVEAL_CPP_BUILD") or request.config.cache.mkdir("cpp-build"))
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release"]
    if not (folder / "CMakeCache.txt").exists():
        configure += ["-G", "Ninja"] if shutil.which("ninja") else []
        if shutil.which("ccache"):
            configure += ["-DCMAKE_C_COMPILER_LAUNCHER=ccache", "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"]
    for command in (configure, ["cmake", "--build", str(folder), "--parallel"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.fail(f"{' '.join(command)}\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}", pytrace=False)
    return folder


@pytest.fixture(params=["python", "native"])
def cli(request: pytest.FixtureRequest) -> list[str]:
    """The `foveal` command: the package's entry, and the program that needs no Python."""
    if request.param == "python":
        return [sys.executable, "-m", "foveal"]
    return [str(request.getfixturevalue("cpp_build") / "foveal")]
