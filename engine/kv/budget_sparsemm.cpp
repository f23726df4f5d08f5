// SparseMM (arXiv 2506.05344): heads that look at pictures get rows, the others a small share each.
#include <cmath>
#include <numeric>

#include "engine/core/error.h"
#include "engine/kv/budgets.h"

namespace foveal {

Counts budget_sparsemm(const BudgetLayer& layer, std::span<const float> head_scores, double rho) {
  const auto heads = static_cast<int64_t>(layer.attention.size()), group = layer.n_head / heads;
  const auto expected = static_cast<size_t>(layer.n_layer) * static_cast<size_t>(layer.n_head);
  if (head_scores.empty())
    fail(ErrorCode::invalid_argument,
         "kv policy 'sparsemm' needs a table of visual-head scores [n_layer, n_head]: found "
         "none, expected ",
         expected, " numbers");
  if (head_scores.size() != expected)
    fail(ErrorCode::invalid_argument, "kv policy 'sparsemm': the table of visual-head scores has ", head_scores.size(),
         " numbers, expected ", layer.n_layer, " layers x ", layer.n_head, " heads = ", expected);
  double sum = 0;
  for (const float s : head_scores) {
    if (!(s >= 0) || !std::isfinite(s))
      fail(ErrorCode::invalid_argument, "kv policy 'sparsemm': found a head score of ", s, ", expected 0 or more");
    sum += static_cast<double>(s);
  }
  if (!(sum > 0)) fail(ErrorCode::invalid_argument, "kv policy 'sparsemm': all visual-head scores are 0");

  const int64_t low = static_cast<int64_t>(static_cast<double>(layer.c) * rho);
  const auto pool = static_cast<double>((layer.c - low) * layer.n_layer * heads);
  Counts counts(layer.attention.size());
  for (int64_t ih = 0; ih < heads; ++ih) {
    const float* scores = head_scores.data() + layer.il * layer.n_head + ih * group;
    const double share = std::accumulate(scores, scores + group, 0.0) / sum;
    counts[static_cast<size_t>(ih)] = static_cast<int64_t>(std::nearbyint(share * pool + static_cast<double>(low)));
  }
  return counts;
}

}  // namespace foveal
