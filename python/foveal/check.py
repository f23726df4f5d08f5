"""Checks of Python values on their way to the engine: strict about kind and range, errors name the argument."""

import operator
import os
from collections.abc import Iterable
from typing import Any

from .errors import ArgumentError

MAX_INT32 = 2**31 - 1


def integer(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an int in [low, high]; numpy integers are fine, bools and floats aren't."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ArgumentError(f"{name}: found {value!r:.80}, expected an integer from {low} to {high}") from None
    if not low <= number <= high:
        raise ArgumentError(f"{name}: found {number}, expected an integer from {low} to {high}")
    return number


def real(name: str, value: Any) -> float:
    """`value` as a float; its range is the engine's affair."""
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentError(f"{name}: found {value!r:.80}, expected a number") from None


def token_ids(name: str, values: Iterable[Any], n_vocab: int) -> list[int]:
    """Token ids as a list of ints in [0, n_vocab)."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ArgumentError(f"{name}: found {values!r:.80}, expected a list of token ids")
    return [integer(f"{name}[{i}]", v, 0, n_vocab - 1) for i, v in enumerate(values)]


def utf8(text: Any, name: str = "text") -> bytes:
    """UTF-8 of a str. Lone surrogates become the bytes they escape, or are kept as they are: nothing is dropped."""
    if not isinstance(text, str):
        raise ArgumentError(f"{name}: found {type(text).__name__}, expected str")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def path_bytes(name: str, path: Any) -> bytes:
    """A file's name as the operating system wants it."""
    try:
        encoded = os.fsencode(path)
    except TypeError:
        raise ArgumentError(f"{name}: found {type(path).__name__}, expected str or pathlib.Path") from None
    except UnicodeEncodeError:
        raise ArgumentError(f"{name}: the name can't be encoded for this file system") from None
    if not encoded or b"\0" in encoded:
        raise ArgumentError(f"{name}: found {path!r:.80}, expected a file name")
    return encoded
