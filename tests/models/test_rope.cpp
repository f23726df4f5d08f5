// Rotary tables against the formulas of transformers, evaluated in double.
#include "engine/models/rope.h"

#include <cmath>

#include "tests/check.h"

using namespace foveal;

namespace {

RopeParams plain(int n_rot, double base) {
  RopeParams p;
  p.n_rot = n_rot;
  p.base = base;
  return p;
}

// Radians a position of every pair, and the length of (cos, sin), read back from a row at position 1. Pairs must turn
// less than half a circle.
std::vector<double> frequencies(const RopeTable& table, int n_rot, double* magnitude = nullptr) {
  Matrix cs(1, n_rot);
  const Position one{1, 1, 1};
  table.rows(cs.view(), {&one, 1});
  std::vector<double> out;
  for (int i = 0; i < n_rot / 2; ++i) {
    const double c = static_cast<double>(cs.view().data[i]), s = static_cast<double>(cs.view().data[n_rot / 2 + i]);
    out.push_back(std::atan2(s, c));
    if (magnitude) *magnitude = std::hypot(c, s);
  }
  return out;
}

void check_relative(const std::vector<double>& found, const std::vector<double>& expected) {
  CHECK_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) CHECK_NEAR(found[i] / expected[i], 1.0, 3e-7);
}

}  // namespace

TEST(plain_and_linear) {
  RopeParams p = plain(8, 10000);
  check_relative(frequencies(RopeTable(p), 8), {1, 0.1, 0.01, 0.001});
  p.factor = 8;
  check_relative(frequencies(RopeTable(p), 8), {0.125, 0.0125, 0.00125, 0.000125});
}

TEST(rows_of_far_positions) {
  Matrix cs(3, 4);
  const Position pos[] = {{0, 0, 0}, {1000, 0, 0}, {1000000, 0, 0}};
  RopeTable(plain(4, 10000)).rows(cs.view(), pos);
  for (int64_t it = 0; it < 3; ++it)
    for (int i = 0; i < 2; ++i) {
      const double angle = pos[it].t * (i == 0 ? 1.0 : 0.01);
      CHECK_NEAR(cs.view().row(it)[i], std::cos(angle), 6e-8);
      CHECK_NEAR(cs.view().row(it)[2 + i], std::sin(angle), 6e-8);
    }
}

// The correction range is 0 to 2 pairs of 8.
TEST(yarn) {
  RopeParams p = plain(16, 10000);
  p.yarn = true;
  p.factor = 8;
  p.original_ctx = 64;
  p.beta_fast = 8;
  p.beta_slow = 2;
  double magnitude = 0;
  check_relative(frequencies(RopeTable(p), 16, &magnitude), {1, 0.177878118384, 0.0125, 0.00395284707521, 0.00125,
                                                             0.000395284707521, 0.000125, 3.95284707521e-05});
  CHECK_NEAR(magnitude, 1.2079441541679836, 1e-6);
  p.attn_factor = 0.5;
  frequencies(RopeTable(p), 16, &magnitude);
  CHECK_NEAR(magnitude, 0.6039720770839918, 1e-6);
}

// Qwen2.5 with 128k tokens: correction range 23 to 40 of 64.
TEST(yarn_of_a_published_model) {
  RopeParams p = plain(128, 1e6);
  p.yarn = true;
  p.factor = 4;
  p.original_ctx = 32768;
  const std::vector<double> f = frequencies(RopeTable(p), 128);
  check_relative(
      {f[0], f[10], f[24], f[30], f[38], f[50], f[63]},
      {1, 0.115478198469, 0.00537532149079, 0.00106436098125, 9.26230170413e-05, 5.13381256614e-06, 3.10234440188e-07});
}

TEST(divisors_of_llama3) {
  const std::vector<float> divisors{1, 1, 2.5f, 8};
  check_relative(frequencies(RopeTable(plain(8, 10000), divisors), 8), {1, 0.1, 0.004, 0.000125});
}

TEST(sections_of_pictures) {
  const int64_t qwen2vl[] = {1, 2, 1}, qwen3vl[] = {4, 2, 2};
  Matrix cs(1, 8);
  const Position at{1, 2, 3};
  RopeTable(plain(8, 10000), {}, mrope_axes(qwen2vl)).rows(cs.view(), {&at, 1});
  const double expected[] = {1, 0.2, 0.02, 0.003};  // t h h w
  for (int i = 0; i < 4; ++i) CHECK_NEAR(cs.view().data[4 + i], std::sin(expected[i]), 6e-8);
  const auto t = Axis::t, h = Axis::h, w = Axis::w;
  CHECK_EQ(interleaved_mrope_axes(qwen3vl), (std::vector<Axis>{t, h, w, t, h, w, t, t}));
  const int64_t published[] = {24, 20, 20};
  const std::vector<Axis> axes = interleaved_mrope_axes(published);
  CHECK_EQ(axes.size(), size_t{64});
  CHECK(axes[58] == h && axes[59] == w && axes[60] == t && axes[61] == t && axes[62] == t && axes[63] == t);
}
