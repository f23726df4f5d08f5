// Norms, sums, activations, rotary embedding, Hadamard transform and gathers of rows on the host shim, against scalar.
#include "kernels/cpu/scalar/ops.h"
#include "tests/cuda/shim/help.h"

using namespace foveal;
using shim::both_orders;
using shim::Matrix;
using shim::randoms;
using shim::unit;

namespace {

const int64_t kCols[] = {1, 7, 31, 32, 33, 64, 129, 300, 1025};

// Roundings of a sum of n numbers by `threads` threads and a tree.
double sum_roundings(int64_t n, int64_t threads) {
  return static_cast<double>((n + threads - 1) / threads) + 12;
}

}  // namespace

TEST(rms_norm_in_place_and_with_gaps) {
  for (const int64_t cols : kCols) {
    for (const int64_t rows : {1, 3}) {
      const Matrix x(rows, cols, 5);
      const auto w = randoms(cols);
      std::vector<float> want(x.data);
      for (int64_t r = 0; r < rows; ++r) scalar::rms_norm(want.data() + r * x.stride, x.row(r), w.data(), cols, 1e-5f);
      const auto got = both_orders([&] {
        Matrix y = x;
        cuda::rms_norm(y.view(), y.view(), w.data(), 1e-5f, nullptr);
        return y.data;
      });
      // relative: half the sum's error (square root), then five roundings
      const double relative = (sum_roundings(cols, 64) / 2 + 5) * unit;
      for (size_t i = 0; i < want.size(); ++i) CHECK_NEAR(got[i], want[i], std::fabs(want[i]) * relative);
    }
  }
}

TEST(layer_norm_with_and_without_shift) {
  for (const int64_t cols : kCols) {
    Matrix x(3, cols, 2);
    for (float& v : x.data) v += 3;  // a mean to take away
    const auto w = randoms(cols), b = randoms(cols);
    for (const float* shift : {b.data(), static_cast<const float*>(nullptr)}) {
      std::vector<float> want(x.data);
      for (int64_t r = 0; r < 3; ++r)
        scalar::layer_norm(want.data() + r * x.stride, x.row(r), w.data(), shift, cols, 1e-5f);
      const auto got = both_orders([&] {
        Matrix y = x;
        cuda::layer_norm(y.view(), y.view(), w.data(), shift, 1e-5f, nullptr);
        return y.data;
      });
      for (int64_t r = 0; r < 3; ++r) {
        // the mean's error (|mean| up to 7) meets 1/sqrt(variance): 1/sqrt(eps) for one column, about 1 for many
        double squares = 0, mean = 0;
        for (int64_t i = 0; i < cols; ++i) mean += x.row(r)[i] / static_cast<double>(cols);
        for (int64_t i = 0; i < cols; ++i) squares += std::pow(x.row(r)[i] - mean, 2) / static_cast<double>(cols);
        const double steep = 1 / std::sqrt(squares + 1e-5), roundings = sum_roundings(cols, 64);
        for (int64_t i = 0; i < cols; ++i) {
          const auto at = static_cast<size_t>(r * x.stride + i);
          const double size = std::fabs(w[static_cast<size_t>(i)]) * steep * (std::fabs(mean) + std::sqrt(squares));
          CHECK_NEAR(got[at], want[at],
                     (roundings + 6) * unit *
                         (size * (1 + std::fabs(want[at])) + std::fabs(want[at]) + (shift ? std::fabs(shift[i]) : 0)));
        }
      }
    }
  }
}

TEST(add_and_scale_are_exact) {
  for (const int64_t cols : {1, 31, 257, 600}) {
    const Matrix x(9, cols, 3), y(9, cols, 1);
    const auto s = randoms(cols);
    for (const float* by : {static_cast<const float*>(nullptr), s.data()}) {
      Matrix want = x;
      for (int64_t r = 0; r < 9; ++r) {
        scalar::add(want.row(r), y.row(r), by, cols);
        scalar::scale(want.row(r), 0.37f, cols);
      }
      const auto got = both_orders([&] {
        Matrix z = x;
        cuda::add(z.view(), y.view(), by, nullptr);
        cuda::scale(z.view(), 0.37f, nullptr);
        return z.data;
      });
      CHECK(got == want.data);
    }
  }
}

TEST(activations_over_the_whole_range) {
  const cuda::Act kinds[] = {cuda::Act::silu, cuda::Act::gelu_tanh, cuda::Act::gelu_erf, cuda::Act::gelu_quick};
  for (const cuda::Act kind : kinds) {
    Matrix x(2, 301, 1), up(2, 301);
    for (int i = 0; i < 301; ++i) x.row(0)[i] = static_cast<float>(i - 150) * 0.2f;
    x.row(1)[0] = -1e4f;
    x.row(1)[1] = 1e4f;
    Matrix want = x, gated(2, 301);
    for (int r = 0; r < 2; ++r) {
      scalar::act(want.row(r), 301, static_cast<CpuAct>(kind));
      scalar::gated_act(gated.row(r), x.row(r), up.row(r), 301, static_cast<CpuAct>(kind));
    }
    Matrix got = x, got_gated = x;
    cuda::act(got.view(), kind, nullptr);
    cuda::gated_act(got_gated.view(), got_gated.view(), up.view(), kind, nullptr);
    for (int r = 0; r < 2; ++r)
      for (int i = 0; i < 301; ++i) {
        // exp(u) turns the roundings of u (up to four, of size |u|) into a relative error, while the value is normal
        const double v = x.row(r)[i], u = kind == cuda::Act::gelu_tanh  ? 1.6 * std::fabs(v + 0.045 * v * v * v)
                                          : kind == cuda::Act::gelu_erf ? v * v
                                                                        : 1.8 * std::fabs(v);
        const double tolerance = (4 * std::min(u, 104.0) + 8) * unit * std::fabs(want.row(r)[i]) + 0x1p-126;
        CHECK_NEAR(got.row(r)[i], want.row(r)[i], tolerance);
        CHECK_NEAR(got_gated.row(r)[i], gated.row(r)[i], tolerance * std::fabs(up.row(r)[i]) * 2 + 0x1p-126);
      }
  }
}

TEST(rope_of_both_styles_passes_the_tail_through) {
  for (const int64_t n_rot : {8, 20}) {
    for (const bool half_split : {false, true}) {
      const Matrix x(5, 3 * 20, 4), cs(5, n_rot, 2);
      Matrix want = x;
      for (int64_t r = 0; r < 5; ++r) scalar::rope(want.row(r), 3, 20, cs.row(r), n_rot, half_split);
      const auto got = both_orders([&] {
        Matrix y = x;
        cuda::rope(y.view(), 3, cs.view(), half_split, nullptr);
        return y.data;
      });
      CHECK(got == want.data);
    }
  }
}

TEST(hadamard_is_its_own_inverse_and_the_matrix) {
  for (const int64_t dim : {1, 2, 16, 64, 80, 128, 256}) {
    const int64_t run = dim & -dim;
    const Matrix x(3, 2 * dim, 1);
    Matrix apart(3, 2 * dim, 1);
    cuda::hadamard(apart.view(), x.view(), dim, nullptr);
    const auto got = both_orders([&] {
      Matrix y = x;
      cuda::hadamard(y.view(), y.view(), dim, nullptr);
      return y.data;
    });
    for (int64_t r = 0; r < 3; ++r)
      for (int64_t i = 0; i < 2 * dim; ++i) {
        double sum = 0, size = 0;
        for (int64_t j = 0; j < run; ++j) {
          const double v = x.row(r)[i / run * run + j];
          sum += __builtin_popcountll(static_cast<unsigned long long>(i % run & j)) % 2 ? -v : v;
          size += std::fabs(v);
        }
        const double norm = 1 / std::sqrt(static_cast<double>(run));
        CHECK_NEAR(got[static_cast<size_t>(r * x.stride + i)], sum * norm, 10 * unit * size * norm);
        CHECK_EQ(apart.row(r)[i], got[static_cast<size_t>(r * x.stride + i)]);
      }
  }
}

TEST(patches_merges_and_weighted_rows) {
  const auto pixels = randoms(3 * 12 * 8);
  Matrix patches(6, 3 * 16, 3);
  cuda::patch_rows(patches.view(), pixels.data(), 12, 8, 4, nullptr);
  for (int64_t p = 0; p < 6; ++p)
    for (int64_t c = 0; c < 48; ++c) {
      const int64_t y = p / 2 * 4 + c % 16 / 4, x = p % 2 * 4 + c % 4;
      CHECK_EQ(patches.row(p)[c], pixels[static_cast<size_t>((c / 16 * 12 + y) * 8 + x)]);
    }

  const std::vector<int32_t> index = {5, 0, 3, 3, 1, 2};
  Matrix merged(3, 2 * 48, 1);
  cuda::merge_rows(merged.view(), patches.view(), index.data(), 2, nullptr);
  for (int64_t i = 0; i < 6; ++i)
    CHECK(std::memcmp(merged.row(i / 2) + i % 2 * 48, patches.row(index[static_cast<size_t>(i)]), 48 * 4) == 0);

  const auto weight = randoms(6);
  for (const bool add : {false, true}) {
    const Matrix before(2, 48, 2);
    Matrix got = before;
    cuda::weighted_rows(got.view(), patches.view(), index.data(), weight.data(), 3, add, nullptr);
    for (int64_t i = 0; i < 2; ++i)
      for (int64_t c = 0; c < 48; ++c) {
        double want = add ? before.row(i)[c] : 0, size = std::fabs(want);
        for (size_t j = static_cast<size_t>(i) * 3; j < static_cast<size_t>(i) * 3 + 3; ++j) {
          want += static_cast<double>(weight[j]) * patches.row(index[j])[c];
          size += std::fabs(weight[j] * patches.row(index[j])[c]);
        }
        CHECK_NEAR(got.row(i)[c], want, 5 * unit * size);
      }
  }
}

TEST(no_rows_launch_nothing) {
  const long before = shim::launches;
  Matrix x(0, 8);
  const auto w = randoms(8);
  cuda::rms_norm(x.view(), x.view(), w.data(), 1e-5f, nullptr);
  cuda::layer_norm(x.view(), x.view(), w.data(), nullptr, 1e-5f, nullptr);
  cuda::add(x.view(), x.view(), nullptr, nullptr);
  cuda::scale(x.view(), 2, nullptr);
  cuda::act(x.view(), cuda::Act::silu, nullptr);
  cuda::gated_act(x.view(), x.view(), x.view(), cuda::Act::silu, nullptr);
  cuda::hadamard(x.view(), x.view(), 8, nullptr);
  CHECK_EQ(shim::launches, before);
}
