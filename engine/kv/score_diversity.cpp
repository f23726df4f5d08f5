// KeyDiff (arXiv 2504.15364): keys that differ from the head's mean direction carry what others don't. The same
// measurement gives MixKV's redundancy r (arXiv 2510.20707).
#include <algorithm>
#include <numeric>

#include "engine/kv/scores.h"

namespace foveal {

Diversity score_diversity(Backend& backend, const SelectLayer& layer, int ih, const Scores& attention) {
  const KvHead& rows = layer.heads[static_cast<size_t>(ih)].rows;
  const auto n = static_cast<double>(rows.len);
  std::vector<float> cosine(static_cast<size_t>(rows.len));
  double mean_norm2 = 0;  // |m|^2
  backend.key_cosine(cosine.data(), &mean_norm2, rows, layer.type, layer.head_dim);

  Diversity out;
  if (rows.len > 1) out.r = std::clamp((n * mean_norm2 - 1) / (n - 1), 0.0, 1.0);
  if (attention.empty()) return out;
  out.score.assign(attention.size(), 0.0);
  for (size_t i = 0; i < attention.size(); ++i) out.score[i] = -static_cast<double>(cosine[i]);
  const auto [low, high] = std::minmax_element(out.score.begin(), out.score.end());
  const double least = *low, range = *high - *low + 1e-8;
  for (double& s : out.score) s = (s - least) / range;
  const double sum = std::accumulate(out.score.begin(), out.score.end(), 0.0);
  const double sum_attention = std::accumulate(attention.begin(), attention.end(), 0.0);
  const auto m = static_cast<double>(attention.size());
  for (double& s : out.score) s *= (sum_attention / m) / (sum / m + 1e-8);
  return out;
}

}  // namespace foveal
