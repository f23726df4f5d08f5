"""The C++ tests: built once, then one item each, run by ctest."""

import subprocess
from pathlib import Path

import pytest


def ctest_name(path: Path) -> str:
    """tests/kv/test_store.cpp: test_store; tests/cuda/backend/test_sessions.cpp: cuda_backend_sessions (see cmake/)."""
    folders = path.relative_to(Path(__file__).parent).parent.parts
    return "_".join([*folders, path.stem.removeprefix("test_")]) if folders[0] == "cuda" else path.stem


@pytest.mark.parametrize("name", sorted(map(ctest_name, Path(__file__).parent.rglob("test_*.cpp"))))
def test_cpp(name: str, cpp_build: Path) -> None:
    command = ["ctest", "--test-dir", str(cpp_build), "-R", f"^{name}$", "--output-on-failure", "--no-tests=error"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
