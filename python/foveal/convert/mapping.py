"""From the tensors of a folder to those of a GGUF file: each is taken once, and none may be left over."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import FormatError, UnsupportedError
from .checkpoint import Stored

Change = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Output:
    """A tensor to write: float32 by make(), of this shape (numpy order)."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


class Mapping:
    """Takes tensors by the names that remain after renaming, and collects outputs in order."""

    def __init__(self, where: str, tensors: Iterable[tuple[str, Stored]]) -> None:
        self._where = where
        self._rest = dict(tensors)
        self.outputs: list[Output] = []

    def has(self, name: str) -> bool:
        return name in self._rest

    def shape(self, *names: str) -> tuple[int, ...]:
        """Shape of the first of the names that exists."""
        return self._rest[self._name(names)].shape

    def _name(self, names: tuple[str, ...]) -> str:
        found = next((name for name in names if name in self._rest), None)
        if found is None:
            raise FormatError(f"{self._where}: tensor '{' or '.join(names)}' is missing")
        return found

    def _add(self, name: str, shape: tuple[int, ...], source: Stored, change: Change | None) -> None:
        def make() -> np.ndarray:
            values = source.read()
            return (change(values) if change else values).reshape(shape)

        self.outputs.append(Output(name, shape, make))

    def take(
        self,
        target: str,
        *names: str,
        change: Change | None = None,
        shape: tuple[int, ...] | None = None,
        rows: int | None = None,
    ) -> None:
        """Moves the first of `names` that exists to `target`. `change` makes its values; `shape` is theirs when it
        isn't the stored one; `rows` is what the first dimension must be."""
        name = self._name(names)
        source = self._rest.pop(name)
        if rows is not None and source.shape[:1] != (rows,):
            raise FormatError(
                f"{self._where}: tensor '{source.name}': found shape {list(source.shape)}, expected {rows} rows"
            )
        self._add(target, source.shape if shape is None else shape, source, change)

    def take_all(self, pairs: Iterable[tuple[str, str]], suffixes: tuple[str, ...] = ("weight", "bias")) -> None:
        """Moves `source.suffix` to `target.suffix`: the first suffix must be there, the others may."""
        for target, source in pairs:
            self.take(f"{target}.{suffixes[0]}", f"{source}.{suffixes[0]}")
            for suffix in suffixes[1:]:
                if self.has(f"{source}.{suffix}"):
                    self.take(f"{target}.{suffix}", f"{source}.{suffix}")

    def split_rows(self, targets: tuple[str, ...], name: str) -> None:
        """Cuts a tensor into equal parts along its first dimension."""
        source = self._rest.pop(self._name((name,)))
        n = len(targets)
        if not source.shape or source.shape[0] % n:
            raise FormatError(
                f"{self._where}: tensor '{source.name}': found shape {list(source.shape)}, expected {n} equal parts"
            )
        part = source.shape[0] // n
        for i, target in enumerate(targets):
            change = lambda values, at=i * part: values[at : at + part]  # noqa: E731
            self._add(target, (part, *source.shape[1:]), source, change)

    def split_frames(self, targets: tuple[str, ...], name: str) -> None:
        """Cuts a kernel [out, channel, frame, y, x] into one for each frame."""
        source = self._rest.pop(self._name((name,)))
        if len(source.shape) != 5 or source.shape[2] != len(targets):
            raise FormatError(
                f"{self._where}: tensor '{source.name}': found shape {list(source.shape)}, "
                f"expected [out, channel, {len(targets)}, y, x]"
            )
        for i, target in enumerate(targets):
            change = lambda values, at=i: values[:, :, at]  # noqa: E731
            self._add(target, source.shape[:2] + source.shape[3:], source, change)

    def drop(self, unused: Callable[[str], bool]) -> None:
        """Forgets tensors that the original doesn't use either."""
        self._rest = {name: t for name, t in self._rest.items() if not unused(name)}

    def finish(self) -> list[Output]:
        """The outputs. Errors: UnsupportedError when a tensor was left, which would be a part of the model missing."""
        if self._rest:
            names = [t.name for t in self._rest.values()]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UnsupportedError(f"{self._where}: tensor '{names[0]}'{more} has no place in a model of this kind")
        self._check_layers()
        return self.outputs

    def _check_layers(self) -> None:
        """Every layer has the same tensors: an optional bias is in all of them or in none."""
        layers: dict[str, set[str]] = {}
        for output in self.outputs:
            found = re.match(r"(.*blk\.\d+\.)(.*)", output.name)
            if found:
                layers.setdefault(found[1], set()).add(found[2])
        every = set().union(*layers.values())
        for layer, names in layers.items():
            if names != every:
                raise FormatError(
                    f"{self._where}: what makes '{layer}{min(every - names)}' is missing, other layers have it"
                )
