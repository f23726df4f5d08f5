// Weight matrices on the CPU: GGUF tensors repacked once at load into the panels of kernels/cpu/matmul.h.
#pragma once

#include <vector>

#include "engine/backend/backend.h"
#include "engine/core/thread_pool.h"
#include "kernels/cpu/amx.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/matmul.h"
#include "kernels/quant/dequant.h"

namespace foveal {

class CpuWeight : public Weight {
 public:
  // Rows [first_row, first_row + n_rows) of the matrix: one GGUF tensor.
  struct Segment {
    int64_t first_row = 0, n_rows = 0;
    AffineFormat affine;      // bits == 0: float panels
    Codes form = kBytes;      // how the panel holds its codes
    Floats floats = kF32;     // type of float panels
    bool pairs = false;       // panels in bfloat16, kernels/cpu/amx.h;
    bool split = false;       // and after each panel of high parts that of the low ones
    int64_t panel_bytes = 0;  // units, d, m, codes, each on a line of its own | values
    int64_t d_offset = 0, m_offset = 0, code_offset = 0;
    Buffer<uint8_t> data;
  };
  std::vector<Segment> segments;
  TensorInfo table;  // for embed_rows: the tensor as it lies in the file
  bool quantised = false, floating = false, paired = false, split = false;  // kinds of segments
};

// Activations packed for the kernels; grows to the largest matrix seen.
struct MatmulScratch {
  Buffer<int8_t> quads;
  Buffer<float> scales, packed;
  Buffer<uint16_t> pairs;
  Buffer<int32_t> sums[2];  // over 32 | 16 inputs
  Buffer<float> fsums[2];
  Buffer<uint8_t> codes;         // a range of two panels as bytes for each worker
  Buffer<float> totals, values;  // its sums so far | a range of two panels as float32
};

inline int64_t panels_of(int64_t rows) {
  return (rows + kPanelRows - 1) / kPanelRows;
}

// How float types are held: as they are, or in bfloat16 (kernels/cpu/amx.h).
enum class FloatPacking { exact, bf16, bf16x3 };
WeightPtr pack_weight(std::span<const TensorInfo* const> parts, Isa isa, ThreadPool& pool,
                      FloatPacking packing = FloatPacking::exact);
WeightPtr table_weight(const TensorInfo& t);
Buffer<float> dequantize_tensor(const TensorInfo& t);
void cpu_matmul(ThreadPool& pool, const MatmulKernels& kernels, Mat out, const CpuWeight& w, ConstMat x,
                const float* bias, MatmulScratch& scratch, const AmxKernels* amx = nullptr);
void cpu_embed_rows(ThreadPool& pool, Mat out, const CpuWeight& w, std::span<const int32_t> ids);

}  // namespace foveal
