// SnapKV (arXiv 2404.14469): every head of every layer the same.
#include "engine/kv/budgets.h"

namespace foveal {

Counts budget_snapkv(const BudgetLayer& layer) {
  return Counts(layer.attention.size(), layer.c);
}

}  // namespace foveal
