// The rules of eviction on small cases worked out by hand: budgets, ties, what is protected, ragged heads.
#include "engine/kv/select.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <set>

#include "engine/core/error.h"
#include "engine/kv/budgets.h"
#include "engine/kv/scores.h"
#include "tests/check.h"
#include "tests/kv/fake_backend.h"

using namespace foveal;

namespace {

// Random K, V, Q of one layer; heads may differ in length (the last rows are then the same tokens).
struct Layer {
  Layer(std::vector<int64_t> lens, int group, int dim, int window, unsigned seed = 1) {
    std::mt19937 draw(seed);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& x, int64_t n) {
      x.resize(static_cast<size_t>(n));
      for (float& f : x) f = normal(draw);
    };
    seen = *std::max_element(lens.begin(), lens.end());
    k.resize(lens.size()), v.resize(lens.size()), q.resize(lens.size()), index.resize(lens.size());
    for (size_t ih = 0; ih < lens.size(); ++ih) {
      fill(k[ih], lens[ih] * dim);
      fill(v[ih], lens[ih] * dim);
      fill(q[ih], int64_t{group} * window * dim);
      index[ih].resize(static_cast<size_t>(lens[ih]));
      std::iota(index[ih].begin(), index[ih].end(), static_cast<int32_t>(seen - lens[ih]));
      heads.push_back({{k[ih].data(), v[ih].data(), lens[ih]}, index[ih], q[ih].data()});
    }
    window_index.resize(static_cast<size_t>(window));
    std::iota(window_index.begin(), window_index.end(), static_cast<int32_t>(seen - window));
    layer.n_head_kv = static_cast<int>(lens.size());
    layer.n_head = group * layer.n_head_kv;
    layer.head_dim = dim;
    layer.scale = 1 / std::sqrt(static_cast<float>(dim));
    layer.heads = heads;
    layer.window = window;
    layer.window_index = window_index;
  }
  Layer(const Layer&) = delete;
  int64_t seen;
  std::vector<std::vector<float>> k, v, q;
  std::vector<std::vector<int32_t>> index;
  std::vector<int32_t> window_index;
  std::vector<HeadRows> heads;
  SelectLayer layer;
};

SelectParams params(Policy policy, Mix mix, int64_t budget) {
  SelectParams p;
  p.policy = policy;
  p.mix = mix;
  p.budget = budget;
  return p;
}

std::vector<int32_t> range(int32_t from, int32_t to) {
  std::vector<int32_t> out(static_cast<size_t>(to - from));
  std::iota(out.begin(), out.end(), from);
  return out;
}

const Policy kAll[] = {Policy::snapkv,   Policy::pyramidkv, Policy::adakv,
                       Policy::sparsemm, Policy::streaming, Policy::random};

}  // namespace

TEST(budget_at_least_n_keeps_everything) {
  FakeBackend backend;
  const std::vector<float> table(4 * 4, 1.0f);
  for (const Policy policy : kAll)
    for (const int64_t budget : {40, 41, 1000}) {
      Layer l({40, 40}, 2, 8, 8);
      l.layer.n_layer = 4;
      l.layer.il = 3;
      SelectParams p = params(policy, Mix::mixkv, budget);
      p.head_scores = table;
      const SelectResult r = select_rows(backend, l.layer, p);
      for (const auto& keep : r.keep) CHECK_EQ(keep, range(0, 40));
      for (const float mass : r.kept_mass) CHECK_NEAR(mass, 1.0, 1e-6);
    }
}

TEST(fewer_rows_than_the_window) {
  FakeBackend backend;
  for (const Policy policy : {Policy::snapkv, Policy::pyramidkv, Policy::adakv, Policy::streaming, Policy::random})
    for (const int64_t n : {1, 2, 8}) {
      Layer l({n, n}, 2, 8, static_cast<int>(n));
      const SelectResult r = select_rows(backend, l.layer, params(policy, Mix::mixkv, 64));
      CHECK_EQ(r.keep[1], range(0, static_cast<int32_t>(n)));
      CHECK(r.r[0] >= 0 && r.r[0] <= 1);
    }
}

TEST(a_budget_inside_the_window_is_refused) {
  FakeBackend backend;
  Layer l({100, 100}, 1, 8, 32);
  CHECK_THROWS(Error, "found 32 rows per head, expected at least 33 (window 32",
               select_rows(backend, l.layer, params(Policy::snapkv, Mix::none, 32)));
  SelectParams p = params(Policy::snapkv, Mix::none, 36);
  p.sinks = 4;
  CHECK_THROWS(Error, "expected at least 37 (window 32 + sinks 4 + 1)", select_rows(backend, l.layer, p));
  CHECK_EQ(select_rows(backend, l.layer, params(Policy::snapkv, Mix::none, 33)).keep[0].size(), size_t{33});
}

TEST(ties_go_to_the_lower_index) {
  FakeBackend backend;
  backend.attention.assign(40, 0.025f);
  Layer l({40}, 2, 8, 8);
  for (auto& x : l.k[0]) x = 1;
  for (auto& x : l.v[0]) x = 1;
  for (const Mix mix : {Mix::none, Mix::vnorm, Mix::fixed, Mix::mixkv, Mix::keydiff, Mix::sharp}) {
    SelectParams p = params(Policy::snapkv, mix, 18);
    p.kernel = 1;
    const SelectResult r = select_rows(backend, l.layer, p);
    std::vector<int32_t> expected = range(0, 10);
    for (const int32_t i : range(32, 40)) expected.push_back(i);
    CHECK_EQ(r.keep[0], expected);
    CHECK_NEAR(r.r[0], 1.0, 1e-6);  // all keys are one
  }
}

TEST(equal_norms_give_no_nan) {
  FakeBackend backend;
  Layer l({40}, 1, 8, 8);
  for (auto& x : l.v[0]) x = 0.5f;
  const Scores attention(32, 0.25);
  for (const double x : score_vnorm(backend, l.layer, 0, attention)) CHECK_EQ(x, 0.0);
  const auto with = select_rows(backend, l.layer, params(Policy::snapkv, Mix::vnorm, 20)).keep;
  CHECK_EQ(with, select_rows(backend, l.layer, params(Policy::snapkv, Mix::none, 20)).keep);
}

TEST(attention_is_pooled_with_zeros_at_the_ends) {
  const Scores rows{5, 0, 0, 0, 10, 0, 0, 99};
  const Scores pooled = score_attention(rows, 7, 5);
  const double expected[] = {1, 1, 3, 2, 2, 2, 2};
  CHECK_EQ(pooled.size(), size_t{7});
  for (size_t i = 0; i < 7; ++i) CHECK_NEAR(pooled[i], expected[i], 1e-12);
}

TEST(evidence_is_of_the_newest_and_of_the_sharpest_query) {
  FakeBackend backend;
  Layer l({20}, 2, 4, 3, 5);
  Evidence e;
  const Scores mean = measure_attention(backend, l.layer, 0, &e);
  CHECK_EQ(mean, measure_attention(backend, l.layer, 0));
  Matrix probs(6, 20);  // head major: queries 0 to 2 of the first head, then of the second
  backend.window_attention(probs.view(), ConstMat(l.q[0].data(), 6, 4), l.heads[0].rows, KvType::F32,
                           std::vector<int64_t>{18, 19, 20}, l.layer.scale, 0);
  for (int64_t j = 0; j < 20; ++j) {
    const auto at = static_cast<size_t>(j);
    const auto p = [&](int64_t i) { return static_cast<double>(probs.view().row(i)[j]); };
    CHECK_NEAR(e.last[at], (p(2) + p(5)) / 2, 1e-12);
    double most = 0;
    for (int64_t i = 0; i < 6; ++i) most = std::max(most, p(i));
    CHECK_NEAR(e.most[at], most, 0);
  }
}

TEST(sharp_is_the_root_of_importance_times_diversity) {
  // Evidence brought to the mean of attention, 2: last (0, 4, 4, 0), most (8, 0, 0, 0) -> halves (0, 2, 2, 0) and
  // (4, 0, 0, 0); value norms on top.
  const Scores attention{2, 2, 2, 2}, vnorm{0, 2, 7, 0}, diversity{3, 1, 2, 9};
  const Evidence evidence{{0, 0.1, 0.1, 0, 9}, {0.7, 0, 0, 0, 9}};  // the window's row doesn't count
  const Scores score = score_sharp(attention, evidence, vnorm, diversity, 1);
  const double expected[] = {6, 2, 6, 0};
  CHECK_EQ(score.size(), size_t{4});
  for (size_t i = 0; i < 4; ++i) CHECK_NEAR(score[i], expected[i], 1e-12);
  for (const double x : score_sharp(attention, {}, Scores(4, 0.0), diversity, 1)) CHECK_EQ(x, 0.0);
}

TEST(redundancy_is_the_mean_pairwise_cosine) {
  FakeBackend backend;
  Layer l({30}, 1, 4, 4, 7);
  for (size_t i = 0; i < l.k[0].size(); i += 4) l.k[0][i] += 2;  // lean to one side, so that r is well above 0
  double sum = 0;
  const auto dot = [&](size_t a, size_t b) {
    double s = 0;
    for (size_t c = 0; c < 4; ++c) s += static_cast<double>(l.k[0][a * 4 + c]) * l.k[0][b * 4 + c];
    return s;
  };
  for (size_t a = 0; a < 30; ++a)
    for (size_t b = 0; b < 30; ++b)
      if (a != b) sum += dot(a, b) / std::sqrt(dot(a, a) * dot(b, b));
  const SelectResult r = select_rows(backend, l.layer, params(Policy::snapkv, Mix::mixkv, 10));
  CHECK_NEAR(r.r[0], sum / (30 * 29), 1e-6);
  const std::vector<float> table{1.5f};
  SelectParams p = params(Policy::snapkv, Mix::mixkv, 10);
  p.head_weight = table;
  CHECK_NEAR(select_rows(backend, l.layer, p).r[0], 1.0, 0);  // clamped
  // r = 1 is diversity alone.
  CHECK_EQ(select_rows(backend, l.layer, p).keep,
           select_rows(backend, l.layer, params(Policy::snapkv, Mix::keydiff, 10)).keep);
}

TEST(protected_rows_stay_inside_the_budget) {
  FakeBackend backend;
  std::vector<uint8_t> guard(200, 0);
  for (const size_t i : {3, 50, 51, 52, 190}) guard[i] = 1;
  for (const Policy policy : kAll) {
    Layer l({200, 200}, 2, 8, 16, 3);
    l.layer.is_protected = guard;
    const std::vector<float> table(4, 1.0f);
    SelectParams p = params(policy, Mix::mixkv, 40);
    p.sinks = 2;
    p.head_scores = table;
    const SelectResult r = select_rows(backend, l.layer, p);
    size_t total = 0;
    for (const auto& keep : r.keep) {
      total += keep.size();
      CHECK(std::is_sorted(keep.begin(), keep.end()));
      CHECK_EQ(std::set<int32_t>(keep.begin(), keep.end()).size(), keep.size());
      for (const int32_t must : {0, 1, 3, 50, 51, 52, 190}) CHECK(std::binary_search(keep.begin(), keep.end(), must));
      for (const int32_t must : range(184, 200)) CHECK(std::binary_search(keep.begin(), keep.end(), must));
    }
    CHECK(total <= 80 && total >= 77);  // adakv rounds down
  }
}

TEST(more_protected_rows_than_budget_are_all_kept) {
  FakeBackend backend;
  const std::vector<uint8_t> guard(100, 1);
  Layer l({100}, 1, 8, 8);
  l.layer.is_protected = guard;
  CHECK_EQ(select_rows(backend, l.layer, params(Policy::adakv, Mix::mixkv, 20)).keep[0], range(0, 100));
}

TEST(streaming_keeps_sinks_and_the_newest) {
  FakeBackend backend;
  Layer l({100}, 1, 8, 8);
  SelectParams p = params(Policy::streaming, Mix::mixkv, 30);
  p.sinks = 4;
  std::vector<int32_t> expected = range(0, 4);
  for (const int32_t i : range(74, 100)) expected.push_back(i);
  CHECK_EQ(select_rows(backend, l.layer, p).keep[0], expected);
}

TEST(random_is_uniform_and_repeatable) {
  FakeBackend backend;
  Layer l({208, 208}, 1, 4, 8);
  std::vector<int> hits(200, 0);
  SelectParams p = params(Policy::random, Mix::none, 58);
  for (p.seed = 0; p.seed < 400; ++p.seed) {
    const auto keep = select_rows(backend, l.layer, p).keep;
    CHECK_EQ(keep[0].size(), size_t{58});
    if (p.seed < 3) CHECK_EQ(keep, select_rows(backend, l.layer, p).keep);
    if (p.seed < 3) CHECK(keep[0] != keep[1]);
    for (const int32_t i : keep[0])
      if (i < 200) ++hits[static_cast<size_t>(i)];
  }
  // 400 draws of 50 in 200: 100 hits a row, deviation 8.7; 6 deviations for the worst of 200.
  for (const int h : hits) CHECK(h > 48 && h < 152);
}

TEST(pyramid_budgets_fall_and_sum_up) {
  std::vector<Scores> attention(2, Scores(268, 0.1));
  BudgetLayer b;
  b.attention = attention;
  b.c = 64;
  b.m_seen = 268;
  b.n_layer = 4;
  const int64_t expected[] = {125, 85, 45, 5};  // lo = 3, hi = 125, step = 40
  for (b.il = 0; b.il < 4; ++b.il) CHECK_EQ(budget_pyramidkv(b, 20)[1], expected[b.il]);
  b.m_seen = 100;  // hi = 100, lo = 28, step = 24
  b.il = 3;
  CHECK_EQ(budget_pyramidkv(b, 20)[0], int64_t{28});
  b.n_layer = 1;
  b.il = 0;
  CHECK_EQ(budget_pyramidkv(b, 20)[0], int64_t{64});
}

TEST(ada_shares_by_attention) {
  // C = 10, floor 2. Head 0 has 16 rows of 1 and 4 of 0: weight 10/16. Head 1 has 20 rows of 0.5: weight 5/10.
  std::vector<Scores> attention{Scores(20, 0.0), Scores(20, 0.5)};
  std::fill_n(attention[0].begin(), 16, 1.0);
  BudgetLayer b;
  b.attention = attention;
  b.c = 10;
  b.m_seen = 20;
  // The 20 best of all: 16 of head 0, 4 of head 1; 16 * 0.8 + 2 = 14.8, 4 * 0.8 + 2 = 5.2.
  CHECK_EQ(budget_adakv(b, 0.2), (Counts{15, 5}));
  b.c = 20;
  CHECK_EQ(budget_adakv(b, 0.2), (Counts{20, 20}));
  // Uneven heads that fit together keep all they have.
  attention = {Scores(30, 0.1), Scores(4, 0.9)};
  b.attention = attention;
  b.c = 17;
  CHECK_EQ(budget_adakv(b, 0.2), (Counts{30, 4}));
}

TEST(sparsemm_needs_its_table) {
  std::vector<Scores> attention(2, Scores(50, 0.1));
  BudgetLayer b;
  b.attention = attention;
  b.c = 20;
  b.n_layer = 2;
  b.il = 1;
  b.n_head = 4;
  const std::vector<float> table{1, 1, 0, 0, 2, 0, 3, 3};
  // lo = 2, pool = 18 * 2 * 2 = 72; layer 1: 2/10 and 6/10 of it.
  CHECK_EQ(budget_sparsemm(b, table, 0.1), (Counts{16, 45}));
  CHECK_THROWS(Error, "needs a table of visual-head scores [n_layer, n_head]: found none, expected 8",
               budget_sparsemm(b, {}, 0.1));
  CHECK_THROWS(Error, "has 7 numbers, expected 2 layers x 4 heads = 8",
               budget_sparsemm(b, std::span(table).first(7), 0.1));
  const std::vector<float> negative{1, 1, 0, 0, 2, 0, -3, 3}, zero(8, 0.0f);
  CHECK_THROWS(Error, "found a head score of -3", budget_sparsemm(b, negative, 0.1));
  CHECK_THROWS(Error, "all visual-head scores are 0", budget_sparsemm(b, zero, 0.1));
}

TEST(heads_of_unequal_length) {
  FakeBackend backend;
  Layer l({180, 90, 33}, 2, 8, 32, 5);
  for (const Policy policy : {Policy::snapkv, Policy::pyramidkv, Policy::adakv, Policy::streaming, Policy::random}) {
    const SelectResult r = select_rows(backend, l.layer, params(policy, Mix::mixkv, 64));
    size_t total = 0;
    for (size_t ih = 0; ih < 3; ++ih) {
      const auto n = static_cast<int32_t>(l.index[ih].size());
      total += r.keep[ih].size();
      CHECK(std::is_sorted(r.keep[ih].begin(), r.keep[ih].end()));
      for (const int32_t i : range(n - 32, n)) CHECK(std::binary_search(r.keep[ih].begin(), r.keep[ih].end(), i));
      CHECK(r.kept_mass[ih] > 0 && r.kept_mass[ih] <= 1.000001f);
    }
    CHECK(total <= 64 * 3);
  }
}

TEST(the_window_sees_by_token_index) {
  // Two queries of tokens 10 and 20 over rows of tokens 0, 9, 10, 15, 20: the first sees three rows, the second all.
  FakeBackend backend;
  Layer l({5}, 1, 4, 2);
  for (auto& x : l.k[0]) x = 0;  // every visible row gets the same share
  l.index[0] = {0, 9, 10, 15, 20};
  l.window_index = {10, 20};
  const Scores a = measure_attention(backend, l.layer, 0);
  const double expected[] = {(1.0 / 3 + 0.2) / 2, (1.0 / 3 + 0.2) / 2, (1.0 / 3 + 0.2) / 2, 0.1, 0.1};
  for (size_t i = 0; i < 5; ++i) CHECK_NEAR(a[i], expected[i], 1e-7);
}

TEST(broken_numbers_still_give_a_choice) {
  FakeBackend backend;
  Layer l({60}, 1, 4, 8);
  l.k[0][5] = std::nanf("");
  l.v[0][70] = std::nanf("");
  for (const Policy policy : {Policy::snapkv, Policy::adakv})
    CHECK(select_rows(backend, l.layer, params(policy, Mix::mixkv, 20)).keep[0].size() >= 8);
}
