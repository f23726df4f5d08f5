// Weight matrices on the CPU: GGUF tensors, repacked into the panels of kernels/cpu/matmul.h at their second product.
// The first, a short prompt's or a picture's, packs each panel into a corner of its worker's, which the caches hold,
// and throws it away, so that the first token waits for reading the file and not for new memory. A product of more
// tokens than that pays for packs everything before.
#pragma once

#include <vector>

#include "engine/backend/backend.h"
#include "engine/core/thread_pool.h"
#include "kernels/cpu/amx.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/pack.h"
#include "kernels/quant/dequant.h"

namespace foveal {

class CpuWeight : public Weight {
 public:
  // Rows [first_row, first_row + n_rows) of the matrix: one GGUF tensor.
  struct Segment {
    int64_t first_row = 0, n_rows = 0;
    TensorInfo tensor;     // in the file's mapping
    PanelLayout layout;    // affine.bits == 0: float panels, of which only `bytes` counts
    Floats floats = kF32;  // type of float panels
    bool pairs = false;    // they are multiplied in bfloat16, kernels/cpu/amx.h
    mutable Buffer<uint8_t> data;
  };
  std::vector<Segment> segments;
  TensorInfo table;                                          // for embed_rows: the tensor as it lies in the file
  bool quantised = false, floating = false, paired = false;  // kinds of segments
  bool split = false;                                        // bfloat16 by two parts of each factor
  // Whether the panels are there, whether a product has read the file. Products of a weight come one at a time.
  mutable bool packed = false, seen = false;
};

// Activations packed for the kernels; grows to the largest matrix seen.
struct MatmulScratch {
  Buffer<int8_t> quads;
  Buffer<float> scales, packed;
  Buffer<uint16_t> pairs;
  Buffer<int32_t> sums[2];  // over 32 | 16 inputs
  Buffer<float> fsums[2];
  Buffer<uint8_t> codes;         // a range of two panels as bytes for each worker
  Buffer<float> totals, values;  // its sums so far | a range of two panels as float32 or in bfloat16
};

inline int64_t panels_of(int64_t rows) {
  return (rows + kPanelRows - 1) / kPanelRows;
}

// How float types are multiplied: as they are, or in bfloat16 (kernels/cpu/amx.h).
enum class FloatProducts { exact, bf16, bf16x3 };
// Reads nothing yet: the tensors' data must outlive the weight.
WeightPtr pack_weight(std::span<const TensorInfo* const> parts, FloatProducts floats = FloatProducts::exact);
void pack_all(const CpuWeight& w, ThreadPool& pool);
// A segment's panel to the place of panel `place`.
void pack_one(const CpuWeight::Segment& s, int64_t panel, int64_t place);
WeightPtr table_weight(const TensorInfo& t);
Buffer<float> dequantize_tensor(const TensorInfo& t);
void cpu_matmul(ThreadPool& pool, const MatmulKernels& kernels, Mat out, const CpuWeight& w, ConstMat x,
                const float* bias, MatmulScratch& scratch, const AmxKernels* amx = nullptr);
void cpu_embed_rows(ThreadPool& pool, Mat out, const CpuWeight& w, std::span<const int32_t> ids);

}  // namespace foveal
