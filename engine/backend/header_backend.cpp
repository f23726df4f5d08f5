// Sizes of weights without reading them.
#include "engine/backend/header_backend.h"

#include <algorithm>

#include "engine/core/error.h"
#include "kernels/cpu/matmul.h"
#include "kernels/quant/dequant.h"

namespace foveal {

int64_t packed_bytes(const TensorInfo& t) {
  const AffineFormat f = affine_format(t.type);
  const int64_t cols = t.cols(), panels = (t.rows() + kPanelRows - 1) / kPanelRows;
  if (f.bits == 0) {
    const bool wide = t.type == TensorType::F32;
    return panels * cols * kPanelRows * (wide ? 4 : 2);
  }
  const Codes form = f.table ? kTable : f.bits == 4 ? kNibbles : f.bits == 5 ? kFive : f.bits == 6 ? kSix : kBytes;
  const int64_t scale_bytes = (cols / f.sub * kPanelRows * 2 + 63) / 64 * 64;
  return panels * (scale_bytes * (f.mins ? 2 : 1) + cols / 32 * code_bytes(form));
}

WeightPtr HeaderBackend::load_matrix(std::span<const TensorInfo* const> parts) {
  auto w = std::make_unique<Weight>();
  w->cols = parts[0]->cols();
  for (const TensorInfo* t : parts) {
    w->rows += t->rows();
    w->bytes += static_cast<size_t>(packed_bytes(*t));
  }
  weight_bytes += static_cast<int64_t>(w->bytes);
  return w;
}

WeightPtr HeaderBackend::load_table(const TensorInfo& t) {
  auto w = std::make_unique<Weight>();
  w->rows = t.rows();
  w->cols = t.cols();
  return w;
}

Buffer<float> HeaderBackend::load_floats(const TensorInfo& t) {
  Buffer<float> zeros(static_cast<size_t>(t.rows() * t.cols()));
  std::fill_n(zeros.data(), zeros.size(), 0.0f);
  weight_bytes += static_cast<int64_t>(zeros.bytes());
  return zeros;
}

void HeaderBackend::refuse() {
  fail(ErrorCode::state, "only the header was read: there are no weights to compute with");
}

}  // namespace foveal
