// Rows cross as float32, a head at a time, so that a layer's numbers in the cache don't depend on who computed it.
#include "engine/runtime/streamed_rows.h"

#include <climits>
#include <numeric>

namespace foveal {

KvHead StreamedRows::on_host(int64_t rows) {
  const auto n = static_cast<size_t>(rows * store_.shape().head_dim);
  if (k_.size() < n) {
    k_ = Buffer<float>(n + n / 4);
    v_ = Buffer<float>(n + n / 4);
  }
  return {k_.data(), v_.data(), rows};
}

KvHead StreamedRows::fetch(KvHead rows, int64_t first, int64_t n) {
  const KvHead host = on_host(n);
  const int64_t skip = first * store_.shape().head_dim;
  const size_t bytes = static_cast<size_t>(n * store_.shape().head_dim) * sizeof(float);
  gpu_.copy_out(host.k, static_cast<const float*>(rows.k) + skip, bytes);
  gpu_.copy_out(host.v, static_cast<const float*>(rows.v) + skip, bytes);
  return host;
}

void StreamedRows::bring(int il, int ih, KvHead to) {
  const int64_t n = store_.len(il, ih);
  if (n == 0) return;
  const KvHead host = on_host(n);
  std::vector<int32_t> slots(static_cast<size_t>(n));
  std::iota(slots.begin(), slots.end(), 0);
  store_.read(il, ih, host, slots);
  const size_t bytes = static_cast<size_t>(n * store_.shape().head_dim) * sizeof(float);
  gpu_.copy_in(to.k, host.k, bytes);
  gpu_.copy_in(to.v, host.v, bytes);
}

void StreamedRows::assign(int il, int ih, KvHead rows, std::span<const int32_t> slots, std::span<const int32_t> index) {
  const auto n = static_cast<int64_t>(slots.size());
  const bool one_run = n > 0 && slots.back() - slots.front() == n - 1;
  if (!one_run) gpu_.gather_slots(rows, KvType::F32, rows, KvType::F32, slots, store_.shape().head_dim);
  const KvHead host = fetch(rows, one_run ? slots.front() : 0, n);
  std::vector<int32_t> all(slots.size()), kept(slots.size());
  std::iota(all.begin(), all.end(), 0);
  for (size_t j = 0; j < slots.size(); ++j) kept[j] = index[static_cast<size_t>(slots[j])];
  store_.assign(il, ih, host, KvType::F32, all, kept);
}

void StreamedRows::extend(int il, int ih, KvHead rows, int64_t n, int32_t first_index) {
  store_.extend(il, ih, fetch(rows, rows.len - n, n), first_index);
}

void StreamedRows::give_queries(QueryRing& host) {
  host.push_all(queries_);
  queries_.drop_from(INT_MIN);
}

}  // namespace foveal
