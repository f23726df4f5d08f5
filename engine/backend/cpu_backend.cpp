// The CPU backend's weights and row-wise operations. Attention and KV rows: cpu_attention.cpp.
#include "engine/backend/cpu_backend.h"

#include <algorithm>
#include <cstring>

#include "engine/backend/choose_isa.h"
#include "engine/backend/cpu_pieces.h"
#include "engine/core/error.h"

namespace foveal {

static_assert(static_cast<int>(Act::silu) == static_cast<int>(CpuAct::silu) &&
              static_cast<int>(Act::gelu_tanh) == static_cast<int>(CpuAct::gelu_tanh) &&
              static_cast<int>(Act::gelu_erf) == static_cast<int>(CpuAct::gelu_erf) &&
              static_cast<int>(Act::gelu_quick) == static_cast<int>(CpuAct::gelu_quick));

CpuBackend::CpuBackend(int threads, Isa isa)
    : pool_(threads > 0 ? threads : ThreadPool::default_threads()),
      isa_(isa),
      ops_(cpu_ops(isa)),
      kernels_(matmul_kernels(isa)),
      amx_(amx_kernels(isa)),
      cursors_(static_cast<size_t>(pool_.size())) {}

std::string CpuBackend::name() const {
  return cat("cpu (", isa_name(isa_), ", ", pool_.size(), pool_.size() == 1 ? " thread)" : " threads)");
}

WeightPtr CpuBackend::load_matrix(std::span<const TensorInfo* const> parts) {
  return pack_weight(parts);
}

WeightPtr CpuBackend::load_matrix_bf16(std::span<const TensorInfo* const> parts, bool split) {
  if (!amx_) return Backend::load_matrix_bf16(parts, split);
  return pack_weight(parts, split ? FloatProducts::bf16x3 : FloatProducts::bf16);
}

WeightPtr CpuBackend::load_table(const TensorInfo& t) {
  return table_weight(t);
}

Buffer<float> CpuBackend::load_floats(const TensorInfo& t) {
  return dequantize_tensor(t);
}

void CpuBackend::embed_rows(Mat out, const Weight& w, std::span<const int32_t> ids) {
  cpu_embed_rows(pool_, out, static_cast<const CpuWeight&>(w), ids);
}

void CpuBackend::matmul(Mat out, const Weight& w, ConstMat x, const float* bias) {
  std::lock_guard lock(busy_);
  cpu_matmul(pool_, kernels_, out, static_cast<const CpuWeight&>(w), x, bias, matmul_scratch_, amx_);
}

void CpuBackend::rms_norm(Mat out, ConstMat x, const float* w, float eps) {
  for_rows(x.rows, x.cols, [&](int64_t i) { ops_.rms_norm(out.row(i), x.row(i), w, x.cols, eps); });
}

void CpuBackend::layer_norm(Mat out, ConstMat x, const float* w, const float* b, float eps) {
  for_rows(x.rows, x.cols, [&](int64_t i) { ops_.layer_norm(out.row(i), x.row(i), w, b, x.cols, eps); });
}

void CpuBackend::add(Mat x, ConstMat y, const float* scale) {
  for_rows(x.rows, x.cols, [&](int64_t i) { ops_.add(x.row(i), y.row(i), scale, x.cols); });
}

void CpuBackend::scale(Mat x, float s) {
  for_rows(x.rows, x.cols, [&](int64_t i) { ops_.scale(x.row(i), s, x.cols); });
}

// An activation costs several times a sum: rows count for more when the work is cut.
void CpuBackend::act(Mat x, Act kind) {
  for_rows(x.rows, 4 * x.cols, [&](int64_t i) { ops_.act(x.row(i), x.cols, static_cast<CpuAct>(kind)); });
}

void CpuBackend::gated_act(Mat out, ConstMat gate, ConstMat up, Act kind) {
  for_rows(out.rows, 4 * out.cols,
           [&](int64_t i) { ops_.gated_act(out.row(i), gate.row(i), up.row(i), out.cols, static_cast<CpuAct>(kind)); });
}

void CpuBackend::rope(Mat x, int n_head, ConstMat cs, RopeStyle style) {
  for_rows(x.rows, x.cols, [&](int64_t i) {
    ops_.rope(x.row(i), n_head, x.cols / n_head, cs.row(i), cs.cols, style == RopeStyle::half_split);
  });
}

void CpuBackend::patch_rows(Mat out, const float* pixels, int64_t height, int64_t width, int64_t patch) {
  const int64_t across = width / patch;
  for_rows(out.rows, out.cols, [&](int64_t i) {
    const float* corner = pixels + (i / across) * patch * width + (i % across) * patch;
    float* to = out.row(i);
    for (int64_t c = 0; c < 3; ++c) {
      for (int64_t y = 0; y < patch; ++y, to += patch) {
        std::memcpy(to, corner + (c * height + y) * width, static_cast<size_t>(patch) * sizeof(float));
      }
    }
  });
}

void CpuBackend::merge_rows(Mat out, ConstMat x, std::span<const int32_t> index, int64_t m) {
  for_rows(out.rows, out.cols, [&](int64_t i) {
    for (int64_t j = 0; j < m; ++j) {
      const float* from = x.row(index[static_cast<size_t>(i * m + j)]);
      std::memcpy(out.row(i) + j * x.cols, from, static_cast<size_t>(x.cols) * sizeof(float));
    }
  });
}

void CpuBackend::weighted_rows(Mat out, ConstMat x, std::span<const int32_t> index, std::span<const float> weight,
                               int64_t m, bool add) {
  constexpr int64_t kRun = 256;
  for_rows(out.rows, m * out.cols, [&](int64_t i) {
    for (int64_t first = 0; first < out.cols; first += kRun) {
      float sum[kRun];
      const int64_t n = std::min(kRun, out.cols - first);
      for (int64_t j = i * m; j < (i + 1) * m; ++j) {
        const float* from = x.row(index[static_cast<size_t>(j)]) + first;
        const float w = weight[static_cast<size_t>(j)];
        for (int64_t c = 0; c < n; ++c) sum[c] = j == i * m ? w * from[c] : sum[c] + w * from[c];
      }
      float* to = out.row(i) + first;
      for (int64_t c = 0; c < n; ++c) to[c] = add ? to[c] + sum[c] : sum[c];
    }
  });
}

std::unique_ptr<Backend> make_cpu_backend(int threads, const std::string& isa) {
  return std::make_unique<CpuBackend>(threads, choose_isa(isa));
}

}  // namespace foveal
