"""foveal convert: GGUF files from a Hugging Face folder."""

import argparse
import os

from ..errors import ArgumentError
from .setup import Steps, bytes_text, note


def convert(o: argparse.Namespace) -> int:
    from ..convert import convert_folder  # needs packages of the extra `convert`

    if not o.outfile and not o.mmproj:
        raise ArgumentError("-o OUT.gguf is missing (or --mmproj OUT.gguf for the picture encoder alone)")
    with Steps() as steps:
        notes = convert_folder(o.folder, o.outfile, mmproj=o.mmproj, outtype=o.outtype, progress=steps)
    for text in notes:
        note(text)
    for path in (o.outfile, o.mmproj):
        if path:
            print(f"{path}: {bytes_text(os.path.getsize(path))}")
    return 0
