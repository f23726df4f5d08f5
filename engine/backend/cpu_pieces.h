// How the CPU backend cuts work: pieces fixed by the work alone, each computed whole by one worker.
#pragma once

#include <algorithm>
#include <atomic>

#include "engine/backend/cpu_backend.h"

namespace foveal {

constexpr int64_t piece_elements = 16384;  // below this, waking the workers costs more than the work

template <class Fn>
void CpuBackend::for_rows(int64_t n, int64_t row_elements, Fn&& fn) {
  const int64_t piece = std::max<int64_t>(1, piece_elements / std::max<int64_t>(1, row_elements));
  pool_.for_each((n + piece - 1) / piece, [&](int64_t item) {
    const int64_t end = std::min(n, (item + 1) * piece);
    for (int64_t i = item * piece; i < end; ++i) fn(i);
  });
}

template <class Fn>
void CpuBackend::for_items(int64_t n, int64_t floats, bool parallel, Fn&& fn) {
  const int64_t share = (floats + 15) / 16 * 16 + 16;  // own cache lines
  const auto needed = static_cast<size_t>(share * pool_.size());
  if (scratch_.size() < needed) scratch_ = Buffer<float>(needed);
  if (!parallel || n == 1 || pool_.size() == 1) {
    for (int64_t i = 0; i < n; ++i) fn(i, scratch_.data());
    return;
  }
  std::atomic<int64_t> next{0};
  pool_.run([&](int worker, int) {
    float* mine = scratch_.data() + worker * share;
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) fn(i, mine);
  });
}

}  // namespace foveal
