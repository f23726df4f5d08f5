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
            data = path.read_bytes() if path.exists() else b""
            end = data.rfind(b"\n") + 1  # what follows the last line break isn't whole
            whole = [json.loads(line) for line in data[:end].split(b"\n") if line.strip()]
            same = bool(whole) and {"sinks": 0} | dict(whole[0]) == {"sinks": 0} | json.loads(json.dumps(settings))
            bare = len(whole) == 1 and "arms" in whole[0]  # settings of a run that failed before its first result
            if whole and not same and not bare:
                raise ArgumentError(f"{path}: found results of other settings; give another --output or remove it")
            self.results = whole[1:]
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("r+b" if same else "wb")  # what is there stays untouched
            self.file.truncate(self.file.seek(end if same else 0))
            if not same:
                self._write(settings)
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
