// What a row is worth: the scores that policies are mixed from, over the M candidates of one KV head (its rows but the
// last W). Higher stays. All in double, from the backend's float32 measurements. The list of scores.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kv/select.h"

namespace foveal {

using Scores = std::vector<double>;

// Attention that the window's queries give to each of the head's N rows: mean over Q queries and the g query heads.
// ih: the KV head. Empty when there are no queries.
// evidence, if asked for: of each of the N rows, what the newest query gives it (mean over the g heads), and the most
// that any query of any of them does.
struct Evidence {
  Scores last, most;
};
Scores measure_attention(Backend& backend, const SelectLayer& layer, int ih, Evidence* evidence = nullptr);
// SnapKV: the first m of these, average-pooled (kernel odd, stride 1, zero padded, divisor always `kernel`).
Scores score_attention(const Scores& row_attention, int64_t m, int kernel);

// KeyDiff: rows unlike the mean key are worth more; and the head's redundancy r (mean pairwise cosine, in [0, 1]).
struct Diversity {
  Scores score;  // [m], brought to the mean of `attention`
  double r = 0;
};
Diversity score_diversity(Backend& backend, const SelectLayer& layer, int ih, const Scores& attention);
// Norms of the value rows, [m], brought to the mean of `attention`; 0 where all are equal.
Scores score_vnorm(Backend& backend, const SelectLayer& layer, int ih, const Scores& attention);
// MixKV and its ablations. r: the head's redundancy, online or from a table.
Scores mix_scores(Mix mix, const Scores& attention, const Scores& vnorm, const Scores& diversity, double r);
// Mix::sharp: diversity times the root of importance, importance being sharp evidence (not the window's mean) and value
// norm. All [m] but evidence [n].
Scores score_sharp(const Scores& attention, const Evidence& evidence, const Scores& vnorm, const Scores& diversity,
                   int kernel);

// Baselines: later is better; a number drawn for each candidate.
Scores score_streaming(int64_t m);
Scores score_random(int64_t m, uint64_t seed, int il, int ih, int32_t last_token);

}  // namespace foveal
