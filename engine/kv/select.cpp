// A layer's choice: measure, score, share out, keep the best. Ties go to the lower row.
#include "engine/kv/select.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/core/error.h"
#include "engine/kv/budgets.h"
#include "engine/kv/scores.h"

namespace foveal {
namespace {

void check(const SelectLayer& layer, const SelectParams& p) {
  if (layer.n_head_kv < 1 || layer.n_head % layer.n_head_kv != 0 ||
      layer.heads.size() != static_cast<size_t>(layer.n_head_kv))
    fail(ErrorCode::invalid_argument, "evict: found ", layer.n_head, " query heads on ", layer.n_head_kv,
         " KV heads, expected a multiple");
  if (layer.il < 0 || layer.il >= layer.n_layer)
    fail(ErrorCode::invalid_argument, "evict: found layer ", layer.il, ", expected 0 to ", layer.n_layer - 1);
  if (p.kernel < 1 || p.kernel % 2 == 0)
    fail(ErrorCode::invalid_argument, "evict: found kernel ", p.kernel, ", expected an odd number");
  if (!(p.beta >= 1) || !(p.floor >= 0 && p.floor <= 1) || !(p.rho >= 0 && p.rho <= 1))
    fail(ErrorCode::invalid_argument, "evict: found beta ", p.beta, ", floor ", p.floor, ", rho ", p.rho,
         ", expected beta >= 1, floor and rho in 0 to 1");
  if (!p.head_weight.empty() && p.head_weight.size() != static_cast<size_t>(layer.n_head_kv))
    fail(ErrorCode::invalid_argument, "evict: head_weight has ", p.head_weight.size(), " numbers, expected ",
         layer.n_head_kv, ", one a KV head");
}

// One head, measured. Its candidates are all rows but the last W; those that no rule protects compete.
struct Candidates {
  Scores row_attention;          // [n]
  Scores attention, score;       // of the rows that compete
  std::vector<int32_t> compete;  // slots, ascending
  std::vector<int32_t> keep;     // slots that stay whatever they score: protected, then the window
  float r = 0;
};

Scores policy_score(Backend& backend, const SelectLayer& layer, const SelectParams& p, int ih, const Scores& attention,
                    const Evidence& evidence, float* r) {
  const HeadRows& head = layer.heads[static_cast<size_t>(ih)];
  const auto m = static_cast<int64_t>(attention.size());
  const Diversity diversity = score_diversity(backend, layer, ih, attention);
  const size_t at = static_cast<size_t>(ih);
  *r = p.head_weight.empty() ? static_cast<float>(diversity.r) : std::clamp(p.head_weight[at], 0.0f, 1.0f);
  if (p.policy == Policy::streaming) return score_streaming(m);
  if (p.policy == Policy::random) return score_random(m, p.seed, layer.il, ih, m > 0 ? head.token_index.back() : 0);
  const Scores vnorm = score_vnorm(backend, layer, ih, attention);
  if (p.mix == Mix::sharp) return score_sharp(attention, evidence, vnorm, diversity.score, p.kernel);
  return mix_scores(p.mix, attention, vnorm, diversity.score, static_cast<double>(*r));
}

Candidates measure(Backend& backend, const SelectLayer& layer, const SelectParams& p, int ih) {
  const HeadRows& head = layer.heads[static_cast<size_t>(ih)];
  const int64_t n = head.rows.len, m = std::max<int64_t>(0, n - layer.window);
  Candidates c;
  Evidence evidence;
  c.row_attention = measure_attention(backend, layer, ih, p.mix == Mix::sharp ? &evidence : nullptr);
  c.row_attention.resize(static_cast<size_t>(n), 0.0);
  const Scores attention = score_attention(c.row_attention, m, p.kernel);
  const Scores score = policy_score(backend, layer, p, ih, attention, evidence, &c.r);
  for (int64_t i = 0; i < n; ++i) {
    const auto token = static_cast<size_t>(head.token_index[static_cast<size_t>(i)]);
    const bool stays =
        static_cast<int64_t>(token) < p.sinks || (token < layer.is_protected.size() && layer.is_protected[token]);
    if (i >= m || stays) {
      c.keep.push_back(static_cast<int32_t>(i));
      continue;
    }
    c.compete.push_back(static_cast<int32_t>(i));
    c.attention.push_back(attention[static_cast<size_t>(i)]);
    const double s = score[static_cast<size_t>(i)];
    c.score.push_back(std::isnan(s) ? -std::numeric_limits<double>::infinity() : s);  // broken weights: still an order
  }
  return c;
}

Counts share_out(const SelectLayer& layer, const SelectParams& p, std::span<const Candidates> heads) {
  std::vector<Scores> attention;
  int64_t stay = 0, most_protected = 0, seen = 0;
  for (size_t ih = 0; ih < heads.size(); ++ih) {
    attention.push_back(heads[ih].attention);
    const int64_t n = layer.heads[ih].rows.len, always = static_cast<int64_t>(heads[ih].keep.size());
    stay += always;
    most_protected = std::max(most_protected, always - std::min<int64_t>(n, layer.window));
    if (n > 0) seen = std::max<int64_t>(seen, layer.heads[ih].token_index.back() + 1);
  }
  const auto count = static_cast<int64_t>(heads.size());
  BudgetLayer b;
  b.il = layer.il;
  b.n_layer = layer.n_layer;
  b.n_head = layer.n_head;
  b.c = std::max<int64_t>(0, (p.budget * count - stay) / count);
  b.m_seen = std::max<int64_t>(0, seen - layer.window - most_protected);
  b.attention = attention;
  switch (p.policy) {
    case Policy::snapkv:
    case Policy::streaming:
    case Policy::random:
      return budget_snapkv(b);
    case Policy::pyramidkv:
      return budget_pyramidkv(b, p.beta);
    case Policy::adakv:
      return budget_adakv(b, p.floor);
    case Policy::sparsemm:
      return budget_sparsemm(b, p.head_scores, p.rho);
  }
  return {};
}

// The `count` best of the rows that compete, and those that stay; slots ascending.
std::vector<int32_t> keep_best(const Candidates& c, int64_t count) {
  std::vector<size_t> order(c.compete.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto n = static_cast<std::ptrdiff_t>(std::clamp<int64_t>(count, 0, static_cast<int64_t>(order.size())));
  const auto better = [&](size_t a, size_t b) {
    return c.score[a] > c.score[b] || (c.score[a] == c.score[b] && a < b);
  };
  std::nth_element(order.begin(), order.begin() + n, order.end(), better);
  std::vector<int32_t> keep = c.keep;
  for (std::ptrdiff_t i = 0; i < n; ++i) keep.push_back(c.compete[order[static_cast<size_t>(i)]]);
  std::sort(keep.begin(), keep.end());
  return keep;
}

float mass_of(const Scores& row_attention, std::span<const int32_t> keep) {
  double kept = 0;
  for (const int32_t i : keep) kept += row_attention[static_cast<size_t>(i)];
  const double all = std::accumulate(row_attention.begin(), row_attention.end(), 0.0);
  return all > 0 ? static_cast<float>(kept / all) : 1.0f;
}

}  // namespace

SelectResult select_rows(Backend& backend, const SelectLayer& layer, const SelectParams& params) {
  check(layer, params);
  std::vector<Candidates> heads;
  bool covers_all = true;  // the budget is at least every token ever seen: nothing was evicted, nothing is
  for (int ih = 0; ih < layer.n_head_kv; ++ih) {
    heads.push_back(measure(backend, layer, params, ih));
    const HeadRows& head = layer.heads[static_cast<size_t>(ih)];
    covers_all = covers_all && (head.rows.len == 0 || params.budget > head.token_index.back());
  }
  if (!covers_all && params.budget <= layer.window + params.sinks)
    fail(ErrorCode::invalid_argument, "kv budget: found ", params.budget, " rows per head, expected at least ",
         layer.window + params.sinks + 1, " (window ", layer.window, " + sinks ", params.sinks, " + 1)");
  const Counts counts = share_out(layer, params, heads);
  SelectResult out;
  for (size_t ih = 0; ih < heads.size(); ++ih) {
    const auto all = static_cast<int64_t>(heads[ih].compete.size());
    out.keep.push_back(keep_best(heads[ih], covers_all ? all : counts[ih]));
    out.r.push_back(heads[ih].r);
    out.kept_mass.push_back(mass_of(heads[ih].row_attention, out.keep.back()));
  }
  return out;
}

}  // namespace foveal
