"""The C++ tests: built once, then one item each, run by ctest."""

import subprocess
from pathlib import Path

import pytest

TESTS = sorted(p.stem for p in Path(__file__).parent.glob("*/test_*.cpp"))


@pytest.mark.parametrize("name", TESTS)
def test_cpp(name: str, cpp_build: Path) -> None:
    command = ["ctest", "--test-dir", str(cpp_build), "-R", f"^{name}$", "--output-on-failure", "--no-tests=error"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
