"""foveal quantize: a smaller file from an F16, BF16 or F32 one."""

import argparse
import os

from ..quantize import quantize_file
from .setup import Steps, bytes_text


def quantize(o: argparse.Namespace) -> int:
    with Steps() as steps:
        types = quantize_file(o.source, o.target, o.type.upper(), threads=o.threads, progress=steps)
    before, after = os.path.getsize(o.source), os.path.getsize(o.target)
    made = ", ".join(f"{n} {kind}" for kind, n in sorted(types.items(), key=lambda item: -item[1]))
    print(f"{o.target}: {bytes_text(after)} from {bytes_text(before)}; tensors: {made}")
    return 0
