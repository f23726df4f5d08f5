// The size of what a row would add, |V_i|: half of MixKV's importance (arXiv 2510.20707). The published code divides by
// zero where all norms are equal; here they say nothing and the score is 0.
#include <algorithm>
#include <numeric>

#include "engine/kv/scores.h"

namespace foveal {

Scores score_vnorm(Backend& backend, const SelectLayer& layer, int ih, const Scores& attention) {
  const auto m = static_cast<int64_t>(attention.size());
  Scores out(attention.size(), 0.0);
  if (m == 0) return out;
  std::vector<float> norms(attention.size());
  backend.row_norm(norms.data(), layer.heads[static_cast<size_t>(ih)].rows.v, layer.type, m, layer.head_dim);
  const auto [low, high] = std::minmax_element(norms.begin(), norms.end());
  const double least = static_cast<double>(*low), range = static_cast<double>(*high) - least;
  if (!(range > 0)) return out;
  for (size_t i = 0; i < out.size(); ++i) out[i] = (static_cast<double>(norms[i]) - least) / range;
  const double sum = std::accumulate(out.begin(), out.end(), 0.0);
  const double sum_attention = std::accumulate(attention.begin(), attention.end(), 0.0);
  const auto count = static_cast<double>(m);
  for (double& y : out) y *= (sum_attention / count) / (sum / count + 1e-8);
  return out;
}

}  // namespace foveal
