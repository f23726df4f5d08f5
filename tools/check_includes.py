"""Checks that includes run one way: kernels <- core <- gguf, backend <- kv, text, vision, models <- runtime <- engine.h
<- python, tools. Prints each include that doesn't and exits with 1."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

BELOW_KV = {"kernels", "core", "gguf", "backend"}
ALLOWED = {
    "kernels": {"kernels"},
    "core": {"core", "kernels"},
    "gguf": {"gguf", "core", "kernels"},
    "backend": {"backend", "gguf", "core", "kernels"},
    "kv": BELOW_KV | {"kv"},
    "text": BELOW_KV | {"text"},
    "vision": BELOW_KV | {"vision"},
    "models": BELOW_KV | {"models"},
    "runtime": BELOW_KV | {"kv", "text", "vision", "models", "runtime", "engine.h"},
    "engine.h": BELOW_KV | {"kv", "text", "vision"},
    "python": {"python", "engine.h"},
    "tools": {"tools", "engine.h"},
    "tools/image_file": {"tools/image_file", "vision", "core"},
    "tools/bench": BELOW_KV | {"tools/bench", "engine.h"},  # times kernels and operations by themselves
}


def area(path: str) -> str:
    """The layer that a path from the root belongs to."""
    parts = path.split("/")
    if parts[0] != "engine":
        folder = "/".join(parts[:2])
        return folder if folder in ALLOWED else parts[0]
    return parts[1]


def allowed(importer: str, included: str) -> bool:
    if importer == "tools" and included == "tools/image_file":
        return True
    return included in ALLOWED.get(importer, set())


def main() -> int:
    bad = 0
    for folder in ("kernels", "engine", "python/src", "tools"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix not in (".h", ".cpp", ".cu", ".cuh", ".inc"):
                continue
            name = file.relative_to(ROOT).as_posix()
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
                if not match:
                    continue
                target = match[1]
                if (file.parent / target).exists():
                    target = (file.parent / target).resolve().relative_to(ROOT).as_posix()
                if not allowed(area(name), area(target)):
                    print(f"{name}:{number}: {area(name)} must not include {target}")
                    bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
