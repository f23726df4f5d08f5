"""Writes a GGUF file through the gguf package: keys first, then one tensor at a time."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileError, UnsupportedError
from .mapping import Output

FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32}
LARGEST_HALF = 65504.0


def stored_type(name: str, shape: tuple[int, ...], outtype: str) -> str:
    """The type of a tensor: matrices as asked; vectors, norms and tables of positions stay in float32."""
    if len(shape) < 2 or name.endswith("_norm.weight") or "position_embd" in name or name.startswith("v.class_embd"):
        return "f32"
    if "patch_embd" in name or "mm.input_projection" in name:  # kernels and transposed matrices: not everyone has BF16
        return "f32" if outtype == "f32" or (outtype == "bf16" and "patch_embd" in name) else "f16"
    return outtype


def narrow(name: str, values: np.ndarray, kind: str) -> np.ndarray:
    """Float32 as `kind`; BF16 as uint16, rounded to nearest even."""
    if kind == "f16":
        if values.size and not np.abs(values).max() <= LARGEST_HALF:
            raise UnsupportedError(
                f"tensor '{name}' holds {np.abs(values).max()}, above {LARGEST_HALF:.0f}, the largest in half "
                "precision; use --outtype bf16 or f32"
            )
        return values.astype(np.float16)
    if kind == "bf16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        to_even: np.ndarray = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        upper: np.ndarray = (bits + to_even) >> np.uint32(16)
        return np.where(np.isnan(values), 0x7FC0, upper).astype(np.uint16)
    return np.ascontiguousarray(values, np.float32)


def _add_key(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def write_gguf(
    path: "str | os.PathLike[str]",
    arch: str,
    keys: list[tuple[str, Any]],
    tensors: list[Output],
    outtype: str,
    progress: Callable[[str, float], None] | None,
) -> None:
    """Writes the file under another name and renames it when it is complete."""
    import gguf

    types = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16}
    types["bf16"] = gguf.GGMLQuantizationType.BF16
    numpy_types: dict[str, np.dtype[Any]] = {
        "f32": np.dtype(np.float32),
        "f16": np.dtype(np.float16),
        "bf16": np.dtype(np.uint16),
    }
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        writer = gguf.GGUFWriter(part, arch)
        for key, value in keys:
            _add_key(writer, key, value)
        kinds = [stored_type(t.name, t.shape, outtype) for t in tensors]
        for t, kind in zip(tensors, kinds, strict=True):
            dtype = numpy_types[kind]
            size = int(np.prod(t.shape, dtype=np.int64)) * dtype.itemsize
            writer.add_tensor_info(t.name, t.shape, dtype, size, raw_dtype=types[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for i, (t, kind) in enumerate(zip(tensors, kinds, strict=True)):
            if progress:
                progress(t.name, i / len(tensors))
            writer.write_tensor_data(narrow(t.name, t.make(), kind))
        writer.close()
        os.replace(part, target)
    except OSError as e:
        raise FileError(f"{target}: {e.strerror or e}") from e
    finally:
        part.unlink(missing_ok=True)
