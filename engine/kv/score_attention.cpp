// SnapKV (arXiv 2404.14469): what the last W queries of the prompt look at.
#include <algorithm>
#include <cmath>

#include "engine/kv/scores.h"

namespace foveal {

namespace {

Evidence sharpest(ConstMat probs, int64_t group, int64_t window) {
  Evidence e{Scores(static_cast<size_t>(probs.cols), 0.0), Scores(static_cast<size_t>(probs.cols), 0.0)};
  for (int64_t i = 0; i < probs.rows; ++i) {
    const bool newest = i % window == window - 1;
    for (int64_t j = 0; j < probs.cols; ++j) {
      const auto p = static_cast<double>(probs.row(i)[j]);
      if (!std::isfinite(p)) continue;
      const auto at = static_cast<size_t>(j);
      if (newest) e.last[at] += p / static_cast<double>(group);
      e.most[at] = std::max(e.most[at], p);
    }
  }
  return e;
}

}  // namespace

Scores measure_attention(Backend& backend, const SelectLayer& layer, int ih, Evidence* evidence) {
  const HeadRows& head = layer.heads[static_cast<size_t>(ih)];
  const int64_t n = head.rows.len, group = layer.n_head / layer.n_head_kv;
  const auto window = static_cast<int64_t>(layer.window_index.size()), queries = group * window;
  Scores mean(static_cast<size_t>(n), 0.0);
  if (queries == 0) return {};
  // Causal by token index, since rows before the window may be gone: query w sees the rows up to its own token.
  std::vector<int64_t> visible;
  for (const int32_t index : layer.window_index)
    visible.push_back(std::upper_bound(head.token_index.begin(), head.token_index.end(), index) -
                      head.token_index.begin());
  Matrix probs(queries, n);
  backend.window_attention(probs.view(), ConstMat(head.q, queries, layer.head_dim), head.rows, layer.type, visible,
                           layer.scale, layer.softcap);
  for (int64_t i = 0; i < queries; ++i) {
    const float* p = probs.view().row(i);
    for (int64_t j = 0; j < n; ++j) mean[static_cast<size_t>(j)] += static_cast<double>(p[j]);
  }
  for (double& x : mean) x = std::isfinite(x) ? x / static_cast<double>(queries) : 0.0;
  if (evidence) *evidence = sharpest(probs.view(), group, window);
  return mean;
}

Scores score_attention(const Scores& row_attention, int64_t m, int kernel) {
  Scores out(static_cast<size_t>(m), 0.0);
  for (int64_t i = 0; i < m; ++i) {
    const int64_t from = std::max<int64_t>(0, i - kernel / 2), to = std::min<int64_t>(m - 1, i + kernel / 2);
    for (int64_t j = from; j <= to; ++j) out[static_cast<size_t>(i)] += row_attention[static_cast<size_t>(j)];
    out[static_cast<size_t>(i)] /= kernel;
  }
  return out;
}

}  // namespace foveal
