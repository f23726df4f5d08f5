// Whether a session fits on the GPU: its ceiling is known when it begins.
#include <algorithm>

#include "engine/runtime/placement.h"
#include "engine/runtime/session.h"

namespace foveal {

// Ceiling of the KV rows in the GPU's memory, the copy included that an evicting prefill can be taken back with.
uint64_t SessionImpl::gpu_kv_ceiling() const {
  const Place& place = model_->places().back();  // the host's own, when no layers stay on the GPU
  if (place.backend != model_->gpu()) return 0;
  const Budget::Kind kind = kv_.shadow ? Budget::everything : kv_.budget.kind;  // shadow drops nothing
  const auto rows_at_most = [&]() -> double {
    const auto all = static_cast<double>(n_ctx_);
    switch (kind) {
      case Budget::rows:
        return std::min(all, kv_.budget.value) + kv_.slack;
      case Budget::percent:
        return all * kv_.budget.value / 100 + kv_.slack;
      default:
        return all;
    }
  };
  const auto rows = static_cast<int64_t>(rows_at_most());
  double bytes = 0;
  for (int il = place.first; il < place.stop; ++il) {
    const int window = params().sliding_window[static_cast<size_t>(il)];
    const int64_t held = window > 0 ? std::min<int64_t>(n_ctx_, window + 64) : rows;
    bytes += static_cast<double>(store_->head_bytes(held)) * params().n_head_kv;
  }
  const double share = static_cast<double>(place.stop - place.first) / params().n_layer;
  if (kind == Budget::bytes) bytes = std::min(bytes, kv_.budget.value * share);
  if (kind == Budget::automatic) bytes = 0;  // is made to fit
  return static_cast<uint64_t>(bytes * (kv_.budget.kind == Budget::everything ? 1 : 2));
}

void SessionImpl::check_gpu_room() const {
  if (!model_->gpu()) return;
  const uint64_t kv = gpu_kv_ceiling(), free = model_->gpu()->free_bytes();
  const uint64_t prefill = gpu_scratch_bytes(params(), model_->gpu_layers(), model_->streams(), n_ctx_);
  const uint64_t scratch = model_->vision_room().with(prefill);
  if (kv + scratch <= free) return;
  const auto mib = [](uint64_t bytes) { return cat((bytes + (1 << 20) - 1) >> 20, " MiB"); };
  fail(ErrorCode::out_of_memory, "a session of ", n_ctx_, " rows needs ", mib(kv + scratch), " on ",
       model_->gpu()->name(), " (KV rows ", mib(kv), ", prefill ", mib(scratch), "), found ", mib(free),
       " free; a smaller n_ctx or kv budget, or ",
       model_->gpu_layers() > 0 ? cat("gpu_layers below ", model_->gpu_layers()) : "stream_prefill 'off'",
       " would fit");
}

uint64_t SessionImpl::available_for_kv() const {
  const uint64_t host = available_memory();
  if (model_->gpu_layers() == 0) return host;
  const uint64_t prefill = gpu_scratch_bytes(params(), model_->gpu_layers(), model_->streams(), n_ctx_);
  const uint64_t scratch = model_->vision_room().with(prefill) + kGpuMargin;
  const uint64_t free = model_->gpu()->free_bytes(), left = free > scratch ? (free - scratch) / 2 : 0;
  const double share = static_cast<double>(model_->gpu_layers()) / params().n_layer;
  return std::min(host, static_cast<uint64_t>(static_cast<double>(left) / share));
}

}  // namespace foveal
