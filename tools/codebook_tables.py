"""Writes kernels/quant/codebook_tables.cpp: the codebooks of the IQ types, which are data of the GGUF format.

The numbers come from the `gguf` package. Usage: python tools/codebook_tables.py > kernels/quant/codebook_tables.cpp
"""

import gguf.quants as quants
import numpy as np


def table(name: str, grid: np.ndarray) -> str:
    """A grid [entries, 4 | 8] of int8 as unsigned integers of 32 | 64 bits, first element in the lowest byte."""
    width = grid.shape[-1]
    words = np.ascontiguousarray(grid.astype(np.int8)).view(np.uint32 if width == 4 else np.uint64).reshape(-1)
    digits, per_line = 2 * width, 7 if width == 4 else 5
    lines = []
    for i in range(0, len(words), per_line):
        lines.append("    " + " ".join(f"0x{int(w):0{digits}x}," for w in words[i : i + per_line]))
    kind = "uint32_t" if width == 4 else "uint64_t"
    return f"const {kind} {name}[{len(words)}] = {{\n" + "\n".join(lines) + "\n};\n"


def main() -> None:
    print("// Codebooks of the IQ types: data of the GGUF format, written by tools/codebook_tables.py.")
    print("// clang-format off")
    print('#include "kernels/quant/codebook_tables.h"\n\nnamespace foveal {\n')
    for name in ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"):
        cls = getattr(quants, name)
        cls.init_grid()
        grid = np.asarray(cls.grid).reshape(-1, cls.grid.shape[-1])
        print(table(f"{name.lower()}_grid", grid))
    print("}  // namespace foveal")


if __name__ == "__main__":
    main()
