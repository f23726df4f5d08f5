// PyramidKV (arXiv 2406.02069): lower layers look around, upper ones have found it, so budgets fall linearly.
#include "engine/kv/budgets.h"

namespace foveal {

Counts budget_pyramidkv(const BudgetLayer& layer, double beta) {
  if (layer.n_layer == 1) return budget_snapkv(layer);
  int64_t low = static_cast<int64_t>(static_cast<double>(layer.c) / beta), high = 2 * layer.c - low;
  if (high >= layer.m_seen) {
    high = layer.m_seen;
    low = 2 * layer.c - high;
  }
  if (low >= high) return budget_snapkv(layer);  // everything fits in every layer
  const int64_t step = (high - low) / (layer.n_layer - 1);
  return Counts(layer.attention.size(), high - layer.il * step);
}

}  // namespace foveal
