// Sharp evidence times diversity. The mean over the window dilutes a row that one query needs badly: the newest query
// (as in BACON, arXiv 2606.14782) and the sharpest one (as in DefensiveKV, arXiv 2510.13334) count instead. And a
// product where MixKV adds: a row must be looked at and unlike the others.
#include <cmath>
#include <numeric>

#include "engine/kv/scores.h"

namespace foveal {
namespace {

double mean_of(const Scores& x) {
  return x.empty() ? 0.0 : std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
}

}  // namespace

Scores score_sharp(const Scores& attention, const Evidence& evidence, const Scores& vnorm, const Scores& diversity,
                   int kernel) {
  const auto m = static_cast<int64_t>(attention.size());
  Scores out(attention.size(), 0.0);
  for (const Scores* rows : {&evidence.last, &evidence.most}) {
    if (rows->empty()) continue;  // no window
    const Scores pooled = score_attention(*rows, m, kernel);
    const double mean = mean_of(pooled), scale = mean > 0 ? 0.5 * mean_of(attention) / mean : 0.0;
    for (size_t i = 0; i < out.size(); ++i) out[i] += scale * pooled[i];
  }
  for (size_t i = 0; i < out.size(); ++i) out[i] = std::sqrt(out[i] + vnorm[i]) * diversity[i];
  return out;
}

}  // namespace foveal
