// Row-wise operations on every instruction set against double precision, with bounds from the number of roundings.
#include <algorithm>

#include "tests/backend/reference.h"
#include "tests/check.h"

using namespace foveal;
using reference::numbers;
using reference::Padded;
using reference::Random;
using reference::unit;

namespace {

const int64_t lengths[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 100, 576, 1000};

// Calls fn(backend, isa name) for every instruction set with 1, 2 and 3 threads.
template <class Fn>
void on_every_backend(Fn fn) {
  for (const auto& isa : reference::isas()) {
    for (int threads : {1, 2, 3}) fn(*make_cpu_backend(threads, isa));
  }
}

// Sums run over at least 4 lanes in float, or in double: n/4 + 8 roundings bound either.
double sum_roundings(int64_t n) {
  return (static_cast<double>(n) / 4 + 8) * unit;
}

double exact(double x, Act kind) {
  switch (kind) {
    case Act::silu:
      return x / (1 + std::exp(-x));
    case Act::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Act::gelu_erf:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Act::gelu_quick:
      return x / (1 + std::exp(-1.702 * x));
  }
  return 0;
}

// Stated error of the activations: 1e-6 relative where the result isn't tiny, and never more than 1e-7 * max(1, |x|).
double act_bound(double x, double y) {
  return std::min(1e-6 * std::fabs(y) + 1e-9, 2e-7 * std::max(1.0, std::fabs(x)));
}

}  // namespace

TEST(rms_norm) {
  on_every_backend([](Backend& b) {
    Random random(1);
    for (int64_t n : lengths) {
      const Padded x(3, n, n + 5, random, 4);
      const auto w = numbers(static_cast<size_t>(n), random);
      Padded out(3, n, n + 3);
      b.rms_norm(out.view, x.view, w.data(), 1e-5f);
      for (int64_t i = 0; i < 3; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < n; ++j) sum += std::pow(x.view.row(i)[j], 2);
        for (int64_t j = 0; j < n; ++j) {
          const double y =
              x.view.row(i)[j] / std::sqrt(sum / static_cast<double>(n) + 1e-5f) * w[static_cast<size_t>(j)];
          CHECK_NEAR(out.view.row(i)[j], y, std::fabs(y) * sum_roundings(n) + 1e-12);
        }
      }
      CHECK(out.gaps_untouched());
      Padded same = x;
      b.rms_norm(same.view, same.view, w.data(), 1e-5f);
      for (int64_t i = 0; i < 3; ++i) CHECK(std::equal(same.view.row(i), same.view.row(i) + n, out.view.row(i)));
    }
  });
}

TEST(layer_norm) {
  on_every_backend([](Backend& b) {
    Random random(2);
    for (int64_t n : lengths) {
      const Padded x(3, n, n + 1, random, 2);
      const auto w = numbers(static_cast<size_t>(n), random), bias = numbers(static_cast<size_t>(n), random);
      for (const float* bp : {bias.data(), static_cast<const float*>(nullptr)}) {
        Padded out(3, n, n + 2);
        b.layer_norm(out.view, x.view, w.data(), bp, 1e-6f);
        for (int64_t i = 0; i < 3; ++i) {
          const float* row = x.view.row(i);
          double mean = 0, largest = 0, variance = 0;
          for (int64_t j = 0; j < n; ++j) {
            mean += row[j] / static_cast<double>(n);
            largest = std::max(largest, std::fabs(static_cast<double>(row[j])));
          }
          for (int64_t j = 0; j < n; ++j) variance += std::pow(row[j] - mean, 2) / static_cast<double>(n);
          const double inverse = 1 / std::sqrt(variance + 1e-6f);
          for (int64_t j = 0; j < n; ++j) {
            const double centred = (row[j] - mean) * inverse, wj = w[static_cast<size_t>(j)], bj = bp ? bp[j] : 0.0;
            // the mean's error, seen through the division, and the roundings of the result itself
            const double bound =
                sum_roundings(n) * (std::fabs(wj) * (std::fabs(centred) + largest * inverse) + std::fabs(bj));
            CHECK_NEAR(out.view.row(i)[j], centred * wj + bj, bound + 1e-12);
          }
        }
        CHECK(out.gaps_untouched());
      }
    }
  });
}

TEST(add_and_scale) {
  on_every_backend([](Backend& b) {
    Random random(3);
    for (int64_t n : lengths) {
      const Padded x(2, n, n + 3, random), y(2, n, n, random);
      const auto s = numbers(static_cast<size_t>(n), random);
      Padded plain = x, scaled = x, times = x;
      b.add(plain.view, y.view, nullptr);
      b.add(scaled.view, y.view, s.data());
      b.scale(times.view, 0.37f);
      for (int64_t i = 0; i < 2; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          const float xi = x.view.row(i)[j], yi = y.view.row(i)[j];
          CHECK_EQ(plain.view.row(i)[j], xi + yi);
          CHECK_NEAR(scaled.view.row(i)[j],
                     static_cast<double>(xi) + static_cast<double>(yi) * s[static_cast<size_t>(j)], 4 * unit);
          CHECK_EQ(times.view.row(i)[j], xi * 0.37f);
        }
      }
      CHECK(plain.gaps_untouched());
      CHECK(scaled.gaps_untouched());
      CHECK(times.gaps_untouched());
    }
  });
}

TEST(activations_over_the_line) {
  on_every_backend([](Backend& b) {
    for (Act kind : {Act::silu, Act::gelu_tanh, Act::gelu_erf, Act::gelu_quick}) {
      Padded x(1, 40001, 40001), gate(1, 40001, 40001);
      for (int64_t i = 0; i < 40001; ++i) x.view.data[i] = gate.view.data[i] = static_cast<float>(i - 20000) * 1e-3f;
      x.view.data[0] = gate.view.data[0] = -1e4f;  // far out on both sides
      x.view.data[1] = gate.view.data[1] = 1e4f;
      const Padded input = gate;
      b.act(x.view, kind);
      int64_t wrong = 0;
      for (int64_t i = 0; i < 40001; ++i) {
        const double in = input.view.data[i], y = exact(in, kind);
        if (!(std::fabs(x.view.data[i] - y) <= act_bound(in, y)) && ++wrong < 4)
          CHECK_NEAR(x.view.data[i], y, act_bound(in, y));
      }
      CHECK_EQ(wrong, 0);
      Padded up(1, 40001, 40001);
      for (int64_t i = 0; i < 40001; ++i) up.view.data[i] = 0.5f;
      b.gated_act(gate.view, gate.view, up.view, kind);  // in place, and a product with 1/2 rounds nothing
      for (int64_t i = 0; i < 40001; i += 7) CHECK_EQ(gate.view.data[i], x.view.data[i] * 0.5f);
    }
  });
}

TEST(activation_tails_and_nan) {
  on_every_backend([](Backend& b) {
    Random random(4);
    for (int64_t n : lengths) {
      const Padded gate(2, n, n + 3, random, 5), up(2, n, n + 1, random, 3);
      Padded out(2, n, n + 7);
      b.gated_act(out.view, gate.view, up.view, Act::silu);
      for (int64_t i = 0; i < 2; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          const double y = exact(gate.view.row(i)[j], Act::silu) * up.view.row(i)[j];
          CHECK_NEAR(out.view.row(i)[j], y, 1e-6 * std::fabs(y) + 1e-9);
        }
      }
      CHECK(out.gaps_untouched());
    }
    for (Act kind : {Act::silu, Act::gelu_tanh, Act::gelu_erf, Act::gelu_quick}) {
      Padded x(1, 3, 3);
      x.view.data[0] = x.view.data[2] = 1;
      x.view.data[1] = std::nanf("");
      b.act(x.view, kind);
      CHECK(std::isnan(x.view.data[1]));
      CHECK(!std::isnan(x.view.data[0]) && !std::isnan(x.view.data[2]));
    }
  });
}

TEST(rope) {
  on_every_backend([](Backend& b) {
    Random random(5);
    for (int64_t head_dim : {2, 4, 6, 16, 24, 32, 64, 72, 80, 128}) {
      for (int64_t n_rot : {head_dim, head_dim / 2 / 2 * 2}) {
        for (RopeStyle style : {RopeStyle::adjacent, RopeStyle::half_split}) {
          if (n_rot == 0) continue;
          const int n_head = 3;
          const Padded x(4, n_head * head_dim, n_head * head_dim + 5, random, 3);
          Padded cs(4, n_rot, n_rot + 1);
          for (int64_t i = 0; i < 4; ++i) {
            for (int64_t j = 0; j < n_rot / 2; ++j) {
              const double angle = 3 * random();
              cs.view.row(i)[j] = static_cast<float>(std::cos(angle));
              cs.view.row(i)[n_rot / 2 + j] = static_cast<float>(std::sin(angle));
            }
          }
          Padded out = x;
          b.rope(out.view, n_head, cs.view, style);
          for (int64_t i = 0; i < 4; ++i) {
            for (int64_t e = 0; e < n_head * head_dim; ++e) {
              const int64_t d = e % head_dim, half = n_rot / 2;
              double y = x.view.row(i)[e], bound = 0;
              if (d < n_rot) {
                const bool split = style == RopeStyle::half_split;
                const int64_t pair = split ? d % half : d / 2, step = split ? half : 1;
                const bool second = split ? d >= half : d % 2 == 1;
                const double c = cs.view.row(i)[pair], s = cs.view.row(i)[half + pair];
                const double partner = x.view.row(i)[second ? e - step : e + step];
                y = second ? partner * s + y * c : y * c - partner * s;
                bound = 2 * unit * (std::fabs(x.view.row(i)[e] * c) + std::fabs(partner * s));
              }
              CHECK_NEAR(out.view.row(i)[e], y, bound);
            }
          }
          CHECK(out.gaps_untouched());
        }
      }
    }
  });
}

TEST(patches_and_merging) {
  on_every_backend([](Backend& b) {
    Random random(6);
    for (int64_t p : {1, 2, 14, 16}) {
      const int64_t height = 3 * p, width = 5 * p;
      const auto pixels = numbers(static_cast<size_t>(3 * height * width), random);
      Padded out(15, 3 * p * p, 3 * p * p + 1);
      b.patch_rows(out.view, pixels.data(), height, width, p);
      for (int64_t i = 0; i < 15; ++i) {
        for (int64_t e = 0; e < 3 * p * p; ++e) {
          const int64_t c = e / (p * p), y = i / 5 * p + e / p % p, x = i % 5 * p + e % p;
          CHECK_EQ(out.view.row(i)[e], pixels[static_cast<size_t>((c * height + y) * width + x)]);
        }
      }
      CHECK(out.gaps_untouched());
    }
    const Padded x(12, 5, 6, random);
    std::vector<int32_t> index;
    for (int i = 0; i < 12; ++i) index.push_back(i * 7 % 12);
    Padded out(3, 20, 23);
    b.merge_rows(out.view, x.view, index, 4);
    for (int64_t i = 0; i < 12; ++i) {
      for (int64_t e = 0; e < 5; ++e)
        CHECK_EQ(out.view.row(i / 4)[i % 4 * 5 + e], x.view.row(index[static_cast<size_t>(i)])[e]);
    }
    CHECK(out.gaps_untouched());
  });
}

TEST(rows_by_weights) {
  on_every_backend([](Backend& b) {
    Random random(8);
    const Padded x(12, 600, 603, random);
    const int64_t m = 4;
    std::vector<int32_t> index;
    for (int i = 0; i < 20; ++i) index.push_back(i * 5 % 12);
    const auto weight = numbers(20, random);
    for (const bool add : {false, true}) {
      Random before(9);
      Padded out(5, 600, 601, before);
      const Padded start = out;
      b.weighted_rows(out.view, x.view, index, weight, m, add);
      for (int64_t i = 0; i < 5; ++i)
        for (int64_t e = 0; e < 600; ++e) {
          float sum = 0;
          for (int64_t j = i * m; j < (i + 1) * m; ++j)
            sum += weight[static_cast<size_t>(j)] * x.view.row(index[static_cast<size_t>(j)])[e];
          CHECK_EQ(out.view.row(i)[e], add ? start.data[static_cast<size_t>(i * 601 + e)] + sum : sum);
        }
      CHECK(out.gaps_untouched());
    }
  });
}

TEST(many_rows_on_threads) {
  Random random(7);
  const Padded x(300, 257, 260, random);
  const auto w = numbers(257, random);
  for (const auto& isa : reference::isas()) {
    Padded one(300, 257, 260), three(300, 257, 260);
    make_cpu_backend(1, isa)->rms_norm(one.view, x.view, w.data(), 1e-5f);
    make_cpu_backend(3, isa)->rms_norm(three.view, x.view, w.data(), 1e-5f);
    CHECK(one.data == three.data);
  }
}
