// How the CPU backend cuts work: pieces fixed by the work alone, each computed whole by one worker.
#pragma once

#include <algorithm>
#include <atomic>

#include "engine/backend/cpu_backend.h"

namespace foveal {

constexpr int64_t piece_elements = 16384;  // below this, waking the workers costs more than the work

template <class Fn>
void CpuBackend::for_rows(int64_t n, int64_t row_elements, Fn&& fn) {
  if (alone_) {
    for (int64_t i = 0; i < n; ++i) fn(i);
    return;
  }
  const int64_t piece = std::max<int64_t>(1, piece_elements / std::max<int64_t>(1, row_elements));
  pool_.for_each((n + piece - 1) / piece, [&](int64_t item) {
    const int64_t end = std::min(n, (item + 1) * piece);
    for (int64_t i = item * piece; i < end; ++i) fn(i);
  });
}

template <class Fn>
void CpuBackend::for_items(int64_t n, int64_t floats, bool parallel, Fn&& fn) {
  const int64_t share = (floats + 15) / 16 * 16 + 16;  // own cache lines
  const auto needed = static_cast<size_t>(share * (alone_ ? 1 : pool_.size()));
  Buffer<float>& room = (alone_ ? *alone_ : scratch_).items;
  if (room.size() < needed) room = Buffer<float>(needed);
  if (alone_ || !parallel || n == 1 || pool_.size() == 1) {
    for (int64_t i = 0; i < n; ++i) fn(i, room.data());
    return;
  }
  std::atomic<int64_t> next{0};
  pool_.run([&](int worker, int) {
    float* mine = room.data() + worker * share;
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) fn(i, mine);
  });
}

// fn(item, whether this worker computed the item before it just now, and goes on to the item after it, scratch):
// neighbours go to the same worker, which then knows what it reads next; who is done early helps the others.
template <class Fn>
void CpuBackend::for_neighbours(int64_t n, int64_t floats, bool parallel, Fn&& fn) {
  const int64_t share = (floats + 15) / 16 * 16 + 16, workers = parallel && n > 1 ? pool_.size() : 1;
  const auto needed = static_cast<size_t>(share * pool_.size());
  Buffer<float>& room = scratch_.items;
  if (room.size() < needed) room = Buffer<float>(needed);
  if (workers == 1) {
    for (int64_t i = 0; i < n; ++i) fn(i, i > 0, i + 1 < n, room.data());
    return;
  }
  for (int64_t w = 0; w < workers; ++w) cursors_[static_cast<size_t>(w)].next.store(n * w / workers);
  pool_.run([&](int worker, int) {
    float* mine = room.data() + worker * share;
    for (int64_t turn = 0; turn < workers; ++turn) {
      const int64_t owner = (worker + turn) % workers, end = n * (owner + 1) / workers;
      auto& next = cursors_[static_cast<size_t>(owner)].next;
      bool warm = false;
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < end; warm = turn == 0)
        fn(i, warm, turn == 0 && i + 1 < end, mine);
    }
  });
}

}  // namespace foveal
