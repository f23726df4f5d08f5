// Products with many rows on the host shim: the tiles' plain twin, every weight type, tails of every side.
#include "tests/cuda/shim/weights.h"

using namespace foveal;
using shim::Matrix;
using shim::unit;

namespace {

std::vector<float> product(const shim::Tensor& w, const Matrix& x, int64_t first, int64_t rows, const float* bias) {
  std::vector<uint64_t> room(cuda::matmul_room(rows, w.cols) / 8 + 1);  // exact but for the last word
  std::vector<float> out(static_cast<size_t>(rows * w.rows));
  const cuda::ConstRows some(x.row(first), rows, x.cols, x.stride);
  cuda::matmul_inputs(room.data(), some, nullptr);
  cuda::matmul({out.data(), rows, w.rows, w.rows}, w.part(), some, room.data(), bias, nullptr);
  return out;
}

// x moves by 2^-11 of itself in fp16 (its row is scaled, so only numbers below 2^-24 of the largest lose more: by 2^-35
// of it), weights by 2^-11 of themselves or 2^-25; then cols additions in float32.
void check_product(const shim::Tensor& w, const Matrix& x, int64_t first, const std::vector<float>& got,
                   const float* bias) {
  const auto rows = static_cast<int64_t>(got.size()) / w.rows;
  const double additions = static_cast<double>(w.cols) + 2;
  for (int64_t t = 0; t < rows; ++t) {
    const float* in = x.row(first + t);
    double largest = 0;
    for (int64_t i = 0; i < w.cols; ++i) largest = std::max<double>(largest, std::fabs(in[i]));
    for (int64_t o = 0; o < w.rows; ++o) {
      double want = bias ? bias[o] : 0, bound = std::fabs(want) * unit;
      for (int64_t i = 0; i < w.cols; ++i) {
        const double v = w.values[static_cast<size_t>(o * w.cols + i)], size = std::fabs(v * in[i]);
        want += v * in[i];
        bound += size * (0x1.01p-10 + additions * unit) + std::fabs(v) * largest * 0x1p-35 + std::fabs(in[i]) * 0x1p-25;
      }
      const float found = got[static_cast<size_t>(t * w.rows + o)];
      if (!(std::fabs(found - want) <= bound))
        check::failed(traits_of(w.type).name, static_cast<int>(o),
                      std::to_string(found) + " vs " + std::to_string(want) + ", bound " + std::to_string(bound));
    }
  }
}

}  // namespace

TEST(every_type_with_tails) {
  for (const TensorType type : shim::all_types) {
    const auto w = shim::random_tensor(type, 21, shim::least_cols(type));
    const Matrix x(9, w.cols, 3);
    const auto bias = shim::randoms(21);
    check_product(w, x, 0, product(w, x, 0, 9, bias.data()), bias.data());
  }
}

// Several tiles of outputs and tokens; inputs that end inside a step.
TEST(more_than_one_tile_of_each_side) {
  for (const TensorType type : {TensorType::Q4_K, TensorType::Q8_0, TensorType::F16}) {
    const auto w = shim::random_tensor(type, 131, type == TensorType::Q4_K ? 512 : 96);
    const Matrix x(130, w.cols);
    const auto all = shim::both_orders([&] { return product(w, x, 0, 130, nullptr); });
    check_product(w, x, 0, all, nullptr);
    for (const int64_t rows : {1, 9, 33}) {  // a row's result doesn't depend on the rows beside it
      const auto some = product(w, x, 97, rows, nullptr);
      CHECK(std::memcmp(some.data(), all.data() + 97 * 131, some.size() * 4) == 0);
    }
  }
}

TEST(rows_of_every_size_stay_in_range) {
  const auto w = shim::random_tensor(TensorType::F32, 5, 40);
  Matrix x(4, 40);
  for (int64_t i = 0; i < 40; ++i) {
    x.row(0)[i] *= 1e6f;
    x.row(1)[i] *= 1e-9f;
    x.row(2)[i] = 0;
  }
  const auto got = product(w, x, 0, 4, nullptr);
  for (const float v : got) CHECK(std::isfinite(v));
  for (int64_t t = 0; t < 4; ++t)
    for (int64_t o = 0; o < 5; ++o) {
      double want = 0, size = 0;
      for (int64_t i = 0; i < 40; ++i) {
        want += static_cast<double>(w.values[static_cast<size_t>(o * 40 + i)]) * x.row(t)[i];
        size += std::fabs(w.values[static_cast<size_t>(o * 40 + i)] * x.row(t)[i]);
      }
      CHECK_NEAR(got[static_cast<size_t>(t * 5 + o)], want, size * 0x1.1p-10);
    }
}
