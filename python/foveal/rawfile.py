"""GGUF files as pieces to copy: keys with their bytes, tensors with their places. Reading trusts nothing of its own:
the engine's reader has checked the file before."""

import os
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from . import _foveal
from .check import path_bytes
from .errors import FileError

SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
INTEGERS = (0, 1, 2, 3, 4, 5, 10, 11)
UINT32, STRING, ARRAY = 4, 8, 9
TYPE_IDS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14}


@dataclass(frozen=True)
class RawTensor:
    """A tensor in its file: `ne` in ggml's order (ne[0] contiguous), `data` its bytes."""

    name: str
    ne: tuple[int, ...]
    type: str
    type_id: int
    data: np.ndarray


@dataclass(frozen=True)
class RawFile:
    """`keys`: key -> (value type, bytes of the value), in file order; of a split file those of the first part."""

    keys: dict[bytes, tuple[int, bytes]]
    tensors: list[RawTensor]

    def text(self, key: bytes) -> str:
        """A string value, "" when absent or of another type."""
        kind, value = self.keys.get(key, (STRING, bytes(8)))
        return value[8:].decode("utf-8", "replace") if kind == STRING else ""

    def integer(self, key: bytes, default: int) -> int:
        """An integer value of any width."""
        kind, value = self.keys.get(key, (STRING, b""))
        return int.from_bytes(value, "little") if kind in INTEGERS else default


class _Cursor:
    def __init__(self, data: np.ndarray):
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        self.at += n
        return self.data[self.at - n : self.at].tobytes()

    def number(self, kind: str) -> int:
        return int(struct.unpack("<" + kind, self.take(struct.calcsize(kind)))[0])

    def string(self) -> bytes:
        return self.take(self.number("Q"))

    def value(self, kind: int) -> bytes:
        start = self.at
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            element, count = self.number("i"), self.number("Q")
            if element == STRING:
                for _ in range(count):
                    self.at += 8 + int.from_bytes(self.data[self.at : self.at + 8].tobytes(), "little")
            else:
                self.at += count * SCALAR_BYTES[element]
        else:
            self.at += SCALAR_BYTES[kind]
        return self.data[start : self.at].tobytes()


def _read_part(path: Path, sizes: Iterator[tuple[str, int]]) -> RawFile:
    c = _Cursor(np.memmap(path, np.uint8, "r"))
    c.take(8)
    n_tensors, n_keys = c.number("Q"), c.number("Q")
    keys = {}
    for _ in range(n_keys):
        key, kind = c.string(), c.number("i")
        keys[key] = (kind, c.value(kind))
    places = []
    for _ in range(n_tensors):
        name = c.string().decode("utf-8", "surrogateescape")
        ne = tuple(c.number("q") for _ in range(c.number("I")))
        places.append((name, ne, c.number("i"), c.number("Q")))
    alignment = RawFile(keys, []).integer(b"general.alignment", 32)
    start = -(-c.at // alignment) * alignment
    tensors = []
    for name, ne, type_id, offset in places:
        type_name, size = next(sizes)
        tensors.append(RawTensor(name, ne, type_name, type_id, c.data[start + offset : start + offset + size]))
    return RawFile(keys, tensors)


def read(path: "str | os.PathLike[str]") -> RawFile:
    """Keys and tensors of a file, or of all parts of a split one. Errors: those of the engine's reader."""
    checked = _foveal.describe_file(path_bytes("file", path))
    sizes = iter([(kind, size) for _, kind, _, size in checked["tensors"]])
    first = Path(os.fsdecode(checked["path"]))
    split = re.fullmatch(r"(.*)-00001-of-(\d{5})\.gguf", first.name)
    parts = [first]
    if split:
        parts = [first.with_name(f"{split[1]}-{i:05}-of-{split[2]}.gguf") for i in range(1, int(split[2]) + 1)]
    files = [_read_part(part, sizes) for part in parts]
    keys = {key: value for key, value in files[0].keys.items() if not key.startswith(b"split.")}
    return RawFile(keys, [t for file in files for t in file.tensors])


@contextmanager
def replacing(path: "str | os.PathLike[str]") -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when the block ends well, and leaves no trace when it doesn't."""
    target = Path(os.fsdecode(path_bytes("file", path)))
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as e:
        raise FileError(f"{target}: {e.strerror or e}") from e
    finally:
        part.unlink(missing_ok=True)


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def write(
    path: "str | os.PathLike[str]",
    keys: dict[bytes, tuple[int, bytes]],
    tensors: list[tuple[str, tuple[int, ...], int, int]],
    data: Iterable[np.ndarray],
) -> None:
    """Writes GGUF version 3. `tensors`: (name, ne, type id, bytes); `data`: their bytes in pieces, each tensor's
    pieces together, an empty piece ends a tensor. The old file at `path` stays whole until the new one is complete."""
    alignment = RawFile(keys, []).integer(b"general.alignment", 32)
    with replacing(path) as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)))
        for key, (kind, value) in keys.items():
            file.write(_string(key) + struct.pack("<i", kind) + value)
        offset = 0
        for name, ne, type_id, size in tensors:
            file.write(_string(name.encode("utf-8", "surrogateescape")))
            file.write(struct.pack(f"<I{len(ne)}qiQ", len(ne), *ne, type_id, offset))
            offset += -(-size // alignment) * alignment
        file.write(bytes(-file.tell() % alignment))
        for piece in data:
            if piece.size:
                file.write(piece.data)
            else:
                file.write(bytes(-file.tell() % alignment))
