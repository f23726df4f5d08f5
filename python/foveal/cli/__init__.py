"""The `foveal` command of the Python package: the same commands and flags as the program that needs no Python."""

from .main import main

__all__ = ["main"]
