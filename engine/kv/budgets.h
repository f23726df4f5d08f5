// How many candidates each KV head of one layer keeps, beside its window and its protected rows. The list of budgets.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kv/scores.h"

namespace foveal {

// The layer as budgets see it. Protected rows are out of the count already: C and M are of rows that compete.
struct BudgetLayer {
  int il = 0, n_layer = 1, n_head = 0;
  int64_t c = 0;                      // rows per head on average
  int64_t m_seen = 0;                 // candidates if nothing had ever been evicted: tokens seen - W - protected
  std::span<const Scores> attention;  // [n_head_kv] of [M_h], SnapKV's score
  int64_t m(size_t ih) const { return static_cast<int64_t>(attention[ih].size()); }
};
using Counts = std::vector<int64_t>;  // [n_head_kv], may exceed M_h

Counts budget_snapkv(const BudgetLayer& layer);  // also for streaming and random
Counts budget_pyramidkv(const BudgetLayer& layer, double beta);
Counts budget_adakv(const BudgetLayer& layer, double floor_share);
// head_scores [n_layer, n_head]; invalid_argument when it is missing, of another size, negative or all zero.
Counts budget_sparsemm(const BudgetLayer& layer, std::span<const float> head_scores, double rho);

}  // namespace foveal
