"""foveal info: what a GGUF file holds."""

import argparse

from .. import _foveal
from ..check import path_bytes
from ..errors import ArgumentError
from .setup import bytes_text, note


def info(o: argparse.Namespace) -> int:
    path = o.path or o.model
    if not path:
        raise ArgumentError("info needs a FILE")
    f = _foveal.describe_file(path_bytes("FILE", path))
    print(f["path"].decode("utf-8", "replace"))
    print(
        f"GGUF version {f['version']}, {bytes_text(f['bytes'])}, {len(f['metadata'])} keys, {len(f['tensors'])} tensors"
    )
    print("\nmetadata:")
    for key, value in f["metadata"]:
        print(f"  {key.decode('utf-8', 'replace')} = {value.decode('utf-8', 'replace')}")
    print("\ntensors:")
    width = max((len(name) for name, *_ in f["tensors"]), default=0) + 2
    for name, kind, shape, size in f["tensors"]:
        print(f"  {name.decode('utf-8', 'replace'):{width}}{kind:8}{shape}  {bytes_text(size)}")
    for warning in f["warnings"]:
        note(f"warning: {warning}")
    return 0
