// AdaKV (arXiv 2407.11550): the heads of a layer share its budget by how flat their attention is. The shares come from
// the attention score, whatever mix picks the rows.
#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "engine/kv/budgets.h"

namespace foveal {

Counts budget_adakv(const BudgetLayer& layer, double floor_share) {
  const size_t heads = layer.attention.size();
  const int64_t pool = static_cast<int64_t>(heads) * layer.c;
  int64_t total = 0;
  for (size_t ih = 0; ih < heads; ++ih) total += layer.m(ih);
  Counts counts(heads);
  if (total <= pool) {  // all fit, however uneven the heads are
    for (size_t ih = 0; ih < heads; ++ih) counts[ih] = layer.m(ih);
    return counts;
  }
  std::vector<std::pair<double, size_t>> all;  // weighted score, head
  all.reserve(static_cast<size_t>(total));
  for (size_t ih = 0; ih < heads; ++ih) {
    Scores scores = layer.attention[ih];
    const auto first = scores.begin() + static_cast<std::ptrdiff_t>(std::min(layer.c, layer.m(ih)));
    std::nth_element(scores.begin(), first, scores.end(), std::greater<>());
    const double best = std::accumulate(scores.begin(), first, 0.0);
    const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
    const double weight = sum > 0 ? best / sum : 0.0;
    for (const double s : scores) all.emplace_back(s * weight, ih);
  }
  // Ties between heads go to the lower head, as to the lower index within one.
  const auto before = [](const auto& a, const auto& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
  };
  std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(pool), all.end(), before);
  for (int64_t i = 0; i < pool; ++i) ++counts[all[static_cast<size_t>(i)].second];
  const auto least = static_cast<double>(static_cast<int64_t>(static_cast<double>(layer.c) * floor_share));
  for (int64_t& n : counts)
    n = static_cast<int64_t>(std::nearbyint(static_cast<double>(n) * (1.0 - floor_share) + least));
  return counts;
}

}  // namespace foveal
