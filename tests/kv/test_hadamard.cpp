// The rotation against its definition, and what makes it one: products and lengths stay, twice is nothing.
#include "engine/backend/hadamard.h"

#include <bit>
#include <random>

#include "tests/check.h"

using namespace foveal;

TEST(equals_sylvesters_matrix) {
  for (const int64_t dim : {32, 64, 96, 128}) {
    const int64_t block = dim & -dim;
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<size_t>(2 * dim)), y(x.size());
    for (float& v : x) v = normal(random);
    y = x;
    hadamard(y.data(), 2 * dim, dim);
    for (int64_t i = 0; i < 2 * dim; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < block; ++j) {
        const int bits = std::popcount(static_cast<uint64_t>(i % block & j));
        sum += (bits % 2 ? -1.0 : 1.0) * static_cast<double>(x[static_cast<size_t>(i / block * block + j)]);
      }
      CHECK_NEAR(y[static_cast<size_t>(i)], sum / std::sqrt(static_cast<double>(block)), 1e-5);
    }
    hadamard(y.data(), 2 * dim, dim);
    for (size_t i = 0; i < x.size(); ++i) CHECK_NEAR(y[i], x[i], 1e-5);
  }
}
