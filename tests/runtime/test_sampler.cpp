// The sampler chain: greedy, ranges, filters, reproducibility, penalties.
#include "engine/runtime/sampler.h"

#include <limits>

#include "tests/check.h"

using namespace foveal;

namespace {

const std::vector<float> kLogits = {0.0f, 3.0f, 2.0f, -1.0f, 2.5f};

SampleOptions options(float temperature) {
  SampleOptions o;
  o.temperature = temperature;
  o.top_k = 0;
  o.top_p = 1.0f;
  o.min_p = 0.0f;
  o.seed = 7;
  return o;
}

std::vector<int> draw(const SampleOptions& o, int n) {
  Sampler s(o, 5, {});
  std::vector<int> counts(5);
  for (int i = 0; i < n; ++i) ++counts[static_cast<size_t>(s.sample(kLogits, {}))];
  return counts;
}

}  // namespace

TEST(greedy_takes_the_best_and_the_lowest_of_equals) {
  Sampler s(options(0), 5, {});
  CHECK_EQ(s.sample(kLogits, {}), 1);
  const std::vector<float> tie = {1, 4, 4, 0, 4};
  CHECK_EQ(s.sample(tie, {}), 1);
}

TEST(draws_follow_the_softmax) {
  const auto counts = draw(options(1.0f), 20000);
  double total = 0;
  for (const float l : kLogits) total += std::exp(l);
  for (size_t i = 0; i < 5; ++i) {
    const double p = std::exp(kLogits[i]) / total;
    CHECK_NEAR(counts[i] / 20000.0, p, 5 * std::sqrt(p * (1 - p) / 20000));
  }
}

TEST(filters_cut_the_tail) {
  auto o = options(1.0f);
  o.top_k = 2;
  auto counts = draw(o, 500);
  CHECK(counts[1] > 0 && counts[4] > 0 && counts[0] + counts[2] + counts[3] == 0);
  o = options(1.0f);
  o.top_p = 0.4f;  // the best alone has 0.5 of the mass
  counts = draw(o, 500);
  CHECK_EQ(counts[1], 500);
  o = options(1.0f);
  o.min_p = 0.5f;  // exp(-0.5) = 0.61 stays, exp(-1) = 0.37 goes
  counts = draw(o, 500);
  CHECK(counts[4] > 0 && counts[2] == 0 && counts[0] == 0);
}

TEST(same_seed_same_draws) {
  CHECK_EQ(draw(options(1.3f), 100), draw(options(1.3f), 100));
  auto other = options(1.3f);
  other.seed = 8;
  Sampler a(options(1.3f), 5, {}), b(other, 5, {});
  int different = 0;
  for (int i = 0; i < 100; ++i) different += a.sample(kLogits, {}) != b.sample(kLogits, {});
  CHECK(different > 10);
}

TEST(penalty_suppression_and_nan) {
  auto o = options(0);
  o.repeat_penalty = 2.0f;
  Sampler s(o, 5, {});
  const std::vector<int32_t> history = {1, -1, 1};
  CHECK_EQ(s.sample(kLogits, history), 4);  // 3 / 2 < 2.5, once although seen twice
  const std::vector<int32_t> banned = {1};
  Sampler t(options(0), 5, banned);
  CHECK_EQ(t.sample(kLogits, {}), 4);
  std::vector<float> broken = kLogits;
  broken[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS(Error, "NaN", t.sample(broken, {}));
  broken[3] = std::numeric_limits<float>::infinity();
  CHECK_THROWS(Error, "infinity", t.sample(broken, {}));
  CHECK_EQ(t.sample(kLogits, {}), 4);
}

TEST(ranges_are_named) {
  const float bad = std::numeric_limits<float>::quiet_NaN();
  auto o = options(bad);
  CHECK_THROWS(Error, "temperature", Sampler(o, 5, {}));
  o = options(-1);
  CHECK_THROWS(Error, "temperature", Sampler(o, 5, {}));
  o = options(1);
  o.top_p = 2;
  CHECK_THROWS(Error, "top_p", Sampler(o, 5, {}));
  o = options(1);
  o.top_k = -1;
  CHECK_THROWS(Error, "top_k", Sampler(o, 5, {}));
  o = options(1);
  o.min_p = -0.1f;
  CHECK_THROWS(Error, "min_p", Sampler(o, 5, {}));
  o = options(1);
  o.repeat_penalty = 0;
  CHECK_THROWS(Error, "repeat_penalty", Sampler(o, 5, {}));
}
