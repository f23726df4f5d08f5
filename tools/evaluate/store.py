"""Results item by item in a JSONL file, so that an interrupted run goes on where it stopped."""

import json
from pathlib import Path
from typing import Any

from foveal.errors import ArgumentError, FileError


class Store:
    """First line: the settings that all results share. Then one line an item and protocol. A last line cut short by an
    interruption is dropped."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.results: list[dict[str, Any]] = []
        try:
            lines = path.read_bytes().split(b"\n") if path.exists() else []
            whole = [line for line in lines[:-1] if line.strip()]  # what follows the last line break isn't whole
            if whole and json.loads(whole[0]) != json.loads(json.dumps(settings)):
                raise ArgumentError(f"{path}: found results of other settings; give another --output or remove it")
            self.results = [json.loads(line) for line in whole[1:]]
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("wb")
            self._write(settings)
            for result in self.results:
                self._write(result)
        except (OSError, UnicodeDecodeError) as e:
            raise FileError(f"{path}: {e}") from None
        except ValueError as e:
            if isinstance(e, ArgumentError):
                raise
            raise ArgumentError(f"{path}: found no results in it ({e}); give another --output") from None
        self.done = {(r["task"], r["key"], r["protocol"]) for r in self.results}

    def add(self, result: dict[str, Any]) -> None:
        self.results.append(result)
        self._write(result)

    def _write(self, value: dict[str, Any]) -> None:
        self.file.write(json.dumps(value, separators=(",", ":")).encode() + b"\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()
