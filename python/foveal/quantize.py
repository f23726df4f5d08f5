"""Smaller files: matrices of an F16, BF16 or F32 model as blocks of 8, 6, 5 or 4 bits, in llama.cpp's usual mixes."""

import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from . import _foveal, rawfile
from .errors import ArgumentError, UnsupportedError
from .rawfile import TYPE_IDS, UINT32, RawFile, RawTensor

BLOCKS = {"F32": (1, 4), "F16": (1, 2), "Q4_0": (32, 18), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34)}
BLOCKS |= {"Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210)}
# When rows are no multiple of a type's block.
FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "Q4_0": "F16", "Q5_0": "F16", "Q5_1": "F16", "Q8_0": "F16"}
SOURCES = ("F32", "F16", "BF16")
PIECE = 1 << 20  # elements that one thread quantises at a time


@dataclass(frozen=True)
class Recipe:
    """Which type a matrix gets: `base`, `output` for the last one (or the embedding that serves as it), `more` for V
    and the second matrix of the feed-forward in the layers that suffer most."""

    file_type: int  # general.file_type
    base: str
    output: str
    more: str


RECIPES = {
    "F16": Recipe(1, "F16", "F16", "F16"),
    "Q8_0": Recipe(7, "Q8_0", "Q8_0", "Q8_0"),
    "Q6_K": Recipe(18, "Q6_K", "Q6_K", "Q6_K"),
    "Q5_K_M": Recipe(17, "Q5_K", "Q6_K", "Q6_K"),
    "Q5_K": Recipe(16, "Q5_K", "Q6_K", "Q5_K"),
    "Q4_K_M": Recipe(15, "Q4_K", "Q6_K", "Q6_K"),
    "Q4_K": Recipe(14, "Q4_K", "Q6_K", "Q4_K"),
    "Q4_0": Recipe(2, "Q4_0", "Q6_K", "Q4_0"),
}
PICTURES = ("Q8_0", "F16")  # recipes for picture encoders, which suffer more than text models
# Matrices of picture encoders that stay: tables, kernels, and one that is used transposed.
KEPT = re.compile(r"position_embd|patch_embd|patch_merger|mm\.input_projection")


def more_bits(layer: int, n_layer: int) -> bool:
    """The first and last eighth of the layers, and every third one between."""
    eighth = n_layer // 8
    return layer < eighth or layer >= 7 * n_layer // 8 or (layer - eighth) % 3 == 2


def choose_type(name: str, ne: tuple[int, ...], recipe: Recipe, n_layer: int, tied: bool) -> str | None:
    """The type that a recipe gives a tensor, None for those that stay as they are."""
    if len(ne) < 2 or not name.endswith("weight") or name.endswith("_norm.weight") or KEPT.search(name):
        return None
    kind = recipe.base
    layer = re.match(r"blk\.(\d+)\.(attn_v|attn_qkv|ffn_down)\.weight$", name)
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        kind = recipe.output
    elif layer and more_bits(int(layer[1]), n_layer):
        kind = recipe.more
    while ne[0] % BLOCKS[kind][0]:
        kind = FALLBACK[kind]
    return kind


def _plan(source: str, file: RawFile, recipe_name: str) -> list[tuple[RawTensor, str]]:
    recipe = RECIPES.get(recipe_name)
    if recipe is None:
        raise ArgumentError(f"type: found {recipe_name!r:.40}, expected one of {', '.join(RECIPES)}")
    arch = file.text(b"general.architecture")
    if arch == "clip" and recipe_name not in PICTURES:
        raise ArgumentError(
            f"{source}: a picture encoder (architecture 'clip') is quantised to {' or '.join(PICTURES)}, "
            f"found {recipe_name}"
        )
    n_layer = file.integer(f"{arch}.block_count".encode(), 0)
    tied = all(t.name != "output.weight" for t in file.tensors)
    plan = []
    for t in file.tensors:
        kind = choose_type(t.name, t.ne, recipe, n_layer, tied) or t.type
        if kind != t.type and t.type not in SOURCES:
            raise UnsupportedError(
                f"{source}: tensor '{t.name}' is {t.type} already; quantise from a file of F16, BF16 or F32"
            )
        plan.append((t, kind))
    return plan


def _pieces(source: str, t: RawTensor, kind: str, pool: ThreadPoolExecutor) -> Iterator[np.ndarray]:
    """The tensor's bytes as `kind`, a few rows at a time."""
    if kind == t.type:
        yield t.data
        return
    cols = t.ne[0]
    rows = t.data.reshape(t.data.size // (cols * (4 if t.type == "F32" else 2)), -1)
    step = max(1, PIECE // cols)

    def quantised(first: int) -> np.ndarray:
        values = _foveal.dequantize_rows(t.type, np.ascontiguousarray(rows[first : first + step]), cols)
        try:
            blocks: np.ndarray = _foveal.quantize_rows(kind, values)
        except ArgumentError as e:
            raise ArgumentError(f"{source}: tensor '{t.name}', rows from {first}: {e}") from None
        return blocks.reshape(-1)

    yield from pool.map(quantised, range(0, len(rows), step))


def quantize_file(
    source: "str | os.PathLike[str]",
    target: "str | os.PathLike[str]",
    recipe: str,
    *,
    threads: int | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, int]:
    """Writes the model `source` to `target` with its matrices quantised as `recipe` says (a key of RECIPES); keys are
    copied, one-dimensional tensors and norms stay. `target` appears whole or not at all. `progress` is called with a
    tensor's name and the share done. Returns how many tensors have which type. Errors: ArgumentError (unknown recipe,
    one that a picture encoder can't take, numbers beyond half precision), UnsupportedError (quantised already), and
    those of reading and writing."""
    name = os.fsdecode(source)
    file = rawfile.read(source)
    plan = _plan(name, file, recipe)
    keys = dict(file.keys)
    keys[b"general.file_type"] = (UINT32, struct.pack("<I", RECIPES[recipe].file_type))
    keys.setdefault(b"general.quantization_version", (UINT32, struct.pack("<I", 2)))
    table = []
    for t, kind in plan:
        block, size = BLOCKS.get(kind, (1, 0))
        n = int(np.prod(t.ne))
        if kind == t.type:
            table.append((t.name, t.ne, t.type_id, t.data.size))
        else:
            table.append((t.name, t.ne, TYPE_IDS[kind], n // block * size))
    total = sum(t.data.size for t in file.tensors) or 1

    def data(pool: ThreadPoolExecutor) -> Iterator[np.ndarray]:
        done = 0
        for t, kind in plan:
            if progress:
                progress(t.name, done / total)
            yield from (piece for piece in _pieces(name, t, kind, pool) if piece.size)
            yield np.empty(0, np.uint8)
            done += t.data.size

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        rawfile.write(target, keys, table, data(pool))
    return dict(Counter(kind for _, kind in plan))
