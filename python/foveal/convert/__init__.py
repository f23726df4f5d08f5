"""From a Hugging Face folder to GGUF: a text file, and for a model that sees a second one with the picture encoder.

The files are laid out as llama.cpp's converter lays them out, so both programs read them."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..check import path_bytes
from ..errors import ArgumentError, Error, FileError, FormatError, UnsupportedError
from .checkpoint import find_json, open_tensors, read_json
from .output import FILE_TYPES, write_gguf
from .text import open_text, text_keys, text_tensors
from .tokenizer import tokenizer_keys
from .vision import convert_vision, vision_name

__all__ = ["convert_folder"]

Progress = Callable[[str, float], None]


def _need_packages() -> None:
    try:
        import gguf  # noqa: F401
        import safetensors  # noqa: F401
    except ImportError as e:
        raise UnsupportedError(f"foveal convert needs the package {e.name}: pip install 'foveal[convert]'") from None


def _general(arch: str, kind: str, name: str, outtype: str) -> list[tuple[str, Any]]:
    """general.* keys; the writer itself adds general.architecture."""
    return [
        ("general.type", kind),
        ("general.name", name),
        ("general.file_type", FILE_TYPES[outtype]),
        ("general.quantization_version", 2),
    ]


def convert_folder(
    folder: "str | os.PathLike[str]",
    outfile: "str | os.PathLike[str] | None",
    *,
    mmproj: "str | os.PathLike[str] | None" = None,
    outtype: str = "f16",
    progress: Progress | None = None,
) -> list[str]:
    """Writes the text model of `folder` to `outfile` and its picture encoder to `mmproj`; None leaves one out. The
    matrices are stored as `outtype`: "f16", "bf16" or "f32". Returns notes on what was left out. Errors: FileError (a
    missing file), FormatError (damaged ones, missing tensors), UnsupportedError (an architecture, tokenizer or tensor
    that isn't known, numbers beyond half precision), ArgumentError."""
    _need_packages()
    if outtype not in FILE_TYPES:
        raise ArgumentError(f"outtype: found {outtype!r:.40}, expected one of {', '.join(FILE_TYPES)}")
    root = Path(os.fsdecode(path_bytes("folder", folder)))
    if not root.is_dir():
        raise FileError(f"{root}: no such folder")
    try:
        return _convert(root, outfile, mmproj, outtype, progress)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, struct.error) as e:
        if isinstance(e, Error):
            raise
        raise FormatError(f"{root}: its JSON files hold a value of an unexpected kind ({type(e).__name__}: {e})") from e


def _convert(
    root: Path,
    outfile: "str | os.PathLike[str] | None",
    mmproj: "str | os.PathLike[str] | None",
    outtype: str,
    progress: Progress | None,
) -> list[str]:
    config = read_json(root / "config.json")
    tensors = open_tensors(root)
    seen = {short: t for name, t in tensors.items() if (short := vision_name(name)) is not None}
    text = open_text(root, config, {name: t for name, t in tensors.items() if vision_name(name) is None})
    name = root.resolve().name
    notes: list[str] = []
    if outfile is not None:
        keys, extra = text_keys(text, notes)
        generation = find_json(root, "generation_config.json")
        keys += tokenizer_keys(root, text.n_vocab, [text.config, config, generation])
        outputs = extra + text_tensors(text)
        write_gguf(outfile, text.arch, _general(text.arch, "model", name, outtype) + keys, outputs, outtype, progress)
    if mmproj is not None:
        if not config.get("vision_config"):
            raise ArgumentError(f"{root}: a text model, it has no picture encoder to write to {mmproj}")
        keys, outputs = convert_vision(root, config, seen, text.integer("hidden_size"))
        write_gguf(mmproj, "clip", _general("clip", "mmproj", name, outtype) + keys, outputs, outtype, progress)
    elif seen:
        notes.append("the picture encoder is left out: --mmproj FILE writes it")
    return notes
