// Sixteen rows of a GGUF tensor -> a panel of kernels/cpu/matmul.h.
#pragma once

#include "kernels/cpu/matmul.h"
#include "kernels/quant/dequant.h"

namespace foveal {

// Where the parts of a panel begin, in bytes: units, d, m, codes, each on a line of its own.
struct PanelLayout {
  AffineFormat affine;
  Codes form = kBytes;
  int64_t d_offset = 0, m_offset = 0, code_offset = 0, bytes = 0;
};
// Of a type that has an affine form; cols a multiple of its block.
PanelLayout panel_layout(const AffineFormat& affine, int64_t cols);

// The first n rows (1 to 16, `row_bytes` apart) of `cols` elements; the rest of the panel becomes zeros. A row with a
// scale that is no number gives results that are none; other rows are what they are without it.
void pack_panel(TensorType type, const uint8_t* rows, int64_t row_bytes, int n, int64_t cols, const PanelLayout& layout,
                uint8_t* panel);

// The same of floats of 2 or 4 bytes: [k][row].
void pack_float_panel(int64_t element_bytes, const uint8_t* rows, int64_t row_bytes, int n, int64_t cols,
                      uint8_t* panel);

}  // namespace foveal
