"""A Hugging Face folder: its JSON files, and its tensors read one at a time from safetensors files."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileError, FormatError, UnsupportedError

FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


@dataclass(frozen=True)
class Stored:
    """A tensor of the folder; read() gives it in float32."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Errors: FileError, FormatError (no JSON, or no object)."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as e:
        raise FileError(f"{path}: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise FormatError(f"{path}: no valid JSON: {e}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{path}: found a JSON {type(value).__name__}, expected an object")
    return value


def find_json(folder: Path, *names: str) -> dict[str, Any]:
    """The first of the files that exists, {} when none does."""
    return next((read_json(folder / name) for name in names if (folder / name).is_file()), {})


def widen(raw: np.ndarray, kind: str) -> np.ndarray:
    """Float32 of stored numbers; BF16 comes as uint16 and is the upper half of a float32."""
    if kind == "BF16":
        bits: np.ndarray = raw.astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32)
    return raw.astype(np.float32)


def _open(path: Path) -> dict[str, Stored]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:  # checks the header: sizes, offsets, types
            names = list(file.keys())
    except OSError as e:
        raise FileError(f"{path}: {e.strerror or e}") from e
    except SafetensorError as e:
        raise FormatError(f"{path}: {e}") from None
    data = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8:start].tobytes())

    def stored(name: str) -> Stored:
        kind, (begin, end) = header[name]["dtype"], header[name]["data_offsets"]
        shape = tuple(header[name]["shape"])

        def read() -> np.ndarray:
            if kind not in FLOATS:
                raise UnsupportedError(
                    f"{path}: tensor '{name}' holds {kind}, expected one of {', '.join(FLOATS)}; "
                    "a quantised folder can't be converted, take the original"
                )
            raw = np.frombuffer(data[start + begin : start + end].tobytes(), FLOATS[kind])
            return widen(raw, kind).reshape(shape)

        return Stored(name, shape, read)

    return {name: stored(name) for name in names}


def open_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of the folder by name. Errors: FileError (missing files), FormatError (damaged ones)."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = sorted({str(name) for name in dict(read_json(index).get("weight_map") or {}).values()})
        if any(Path(name).name != name for name in files):
            raise FormatError(f"{index}: names a file outside its folder")
        paths = [folder / name for name in files]
    else:
        paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        other = next((p.name for p in sorted(folder.glob("*.bin"))), None)
        found = f"found {other}, which is a pickle" if other else "found none"
        raise FileError(f"{folder}: {found}, expected *.safetensors files")
    tensors: dict[str, Stored] = {}
    for path in paths:
        if not path.is_file():
            raise FileError(f"{path}: No such file, but {index.name} names it")
        tensors.update(_open(path))
    return tensors
