// Sizes of weights without reading them.
#include "engine/backend/header_backend.h"

#include <algorithm>

#include "engine/backend/choose_isa.h"
#include "engine/core/thread_pool.h"
#include "kernels/cpu/amx.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/pack.h"
#include "kernels/quant/dequant.h"

namespace foveal {

namespace {

struct HeaderWeight final : Weight {
  bool quantised = false, floating = false;
  int bf16_parts = 0;
};

}  // namespace

int64_t packed_bytes(const TensorInfo& t) {
  const AffineFormat f = affine_format(t.type);
  const int64_t cols = t.cols(), panels = (t.rows() + kPanelRows - 1) / kPanelRows;
  if (f.bits == 0) {
    const bool wide = t.type == TensorType::F32;
    return panels * cols * kPanelRows * (wide ? 4 : 2);
  }
  return panels * panel_layout(f, cols).bytes;
}

// bf16_parts: of each float factor; 0: multiplied as it is.
WeightPtr HeaderBackend::count(std::span<const TensorInfo* const> parts, int bf16_parts) {
  auto w = std::make_unique<HeaderWeight>();
  w->cols = parts[0]->cols();
  w->bf16_parts = bf16_parts;
  for (const TensorInfo* t : parts) {
    (affine_format(t->type).bits > 0 ? w->quantised : w->floating) = true;
    w->rows += t->rows();
    w->bytes += static_cast<size_t>(packed_bytes(*t));
  }
  weight_bytes += static_cast<int64_t>(w->bytes);
  if (w->quantised) most_quantised = std::max(most_quantised, w->cols);
  if (w->floating) most_floating = std::max(most_floating, w->cols);
  return w;
}

WeightPtr HeaderBackend::load_matrix(std::span<const TensorInfo* const> parts) {
  return count(parts, 0);
}

bool HeaderBackend::has_bf16() {
  return amx_kernels(choose_isa("")) != nullptr;
}

WeightPtr HeaderBackend::load_matrix_bf16(std::span<const TensorInfo* const> parts, bool split) {
  return count(parts, split ? 2 : 1);
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

void HeaderBackend::matmul(Mat, const Weight& w, ConstMat x, const float*) {
  const auto& known = static_cast<const HeaderWeight&>(w);
  if (known.quantised) scratch.product(x.rows, w.cols, true);
  if (!known.floating) return;
  if (known.bf16_parts > 0) {
    scratch.bf16_product(x.rows, w.cols, known.bf16_parts == 2);
  } else {
    scratch.product(x.rows, w.cols, false);
  }
}

void CpuScratch::product(int64_t rows, int64_t cols, bool is_quantised) {
  if (is_quantised) {
    quantised = std::max(quantised, (rows + 7) / 8 * 8 * cols);
  } else {
    packed = std::max(packed, (rows + 11) / 12 * 12 * cols);
  }
}

void CpuScratch::bf16_product(int64_t rows, int64_t cols, bool split) {
  const int64_t filled = (rows + kTileTokens - 1) / kTileTokens * kTileTokens;
  pairs = std::max(pairs, filled * ((cols + kTileInputs - 1) / kTileInputs * kTileInputs) * (split ? 2 : 1));
}

void CpuScratch::encoder(int64_t head_dim) {
  worker = std::max(worker, cpu_ops(choose_isa("")).attend_scratch(1, head_dim));
}

// As cpu_attention.cpp reserves them: decode goes on far past a prefill before its partial results grow.
void CpuScratch::attention(int64_t n_head_kv, int64_t group, int64_t head_dim, int64_t rows) {
  constexpr int64_t kSpareRows = 16384, kMeasuredRows = 256;
  const CpuOps& ops = cpu_ops(choose_isa(""));
  worker = std::max(
      {worker, ops.attend_scratch(group, head_dim), ops.decode_scratch(group, head_dim), kMeasuredRows * head_dim});
  const int64_t chunks = (rows + kSpareRows + decode_rows - 1) / decode_rows;
  const int64_t floats = chunks * n_head_kv * group * part_stride(head_dim);
  parts = std::max(parts, floats + floats / 2);
}

void CpuScratch::add(const CpuScratch& o) {
  quantised = std::max(quantised, o.quantised);
  packed = std::max(packed, o.packed);
  pairs = std::max(pairs, o.pairs);
  worker = std::max(worker, o.worker);
  parts = std::max(parts, o.parts);
}

int64_t CpuScratch::bytes(int threads) const {
  const int64_t workers = threads > 0 ? threads : ThreadPool::default_threads();
  // Of a worker: ranges of two panels as bytes or floats, and the sums of an item (cpu_weight.cpp).
  constexpr int64_t kCodes = 2 * 512 * kPanelRows, kCodeSums = 2 * (256 + 24) * kPanelRows * 4;
  constexpr int64_t kValues = 2 * 384 * kPanelRows * 4, kValueSums = 8 * (600 + 24) * kPanelRows * 4;
  int64_t sum = parts * 4 + (worker > 0 ? ((worker + 15) / 16 * 16 + 16) * 4 * workers : 0);
  if (quantised > 0) sum += quantised + quantised / 32 * 4 + quantised * 3 / 4 + kCodes * workers;
  sum += packed * 4 + pairs * 2;
  if (packed > 0 || pairs > 0) sum += kValues * workers;
  sum += (packed > 0 || pairs > 0 ? kValueSums : quantised > 0 ? kCodeSums : 0) * workers;
  return sum;
}

}  // namespace foveal
