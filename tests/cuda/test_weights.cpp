// Every weight type on the host shim: rows as float32 bit for bit, products with few rows of inputs.
#include <fstream>

#include "tests/cuda/shim/weights.h"

using namespace foveal;
using shim::Matrix;
using shim::unit;

namespace {

// What the matvec kernel multiplies: the inputs as they are, or in blocks of 32 as 8-bit codes with their scale.
std::vector<float> inputs_of(TensorType type, const Matrix& x, int64_t row) {
  std::vector<float> y(x.row(row), x.row(row) + x.cols);
  if (traits_of(type).block_elements == 1) return y;
  for (size_t b = 0; b < y.size(); b += 32) {
    float largest = 0;
    for (size_t i = b; i < b + 32; ++i) largest = std::fmax(largest, std::fabs(y[i]));
    for (size_t i = b; i < b + 32; ++i) y[i] = std::nearbyint(y[i] * (127.0f / largest)) * (largest / 127.0f);
  }
  return y;
}

std::vector<float> matvec(const shim::Tensor& w, const Matrix& x, int64_t rows, const float* bias) {
  std::vector<float> room(cuda::matvec_room(rows, w.cols) / 4 + 1), out(static_cast<size_t>(rows * w.rows));
  const cuda::ConstRows few(x.data.data(), rows, x.cols, x.stride);
  cuda::matvec_inputs(room.data(), few, nullptr);
  cuda::matvec({out.data(), rows, w.rows, w.rows}, w.part(), few, room.data(), bias, nullptr);
  return out;
}

void check_product(const shim::Tensor& w, const Matrix& x, const std::vector<float>& got, const float* bias) {
  const bool floats = traits_of(w.type).block_elements == 1;
  // roundings: of a lane's sums, of the tree, of the scales
  const double additions = static_cast<double>(floats ? (w.cols + 31) / 32 : (w.cols + 1023) / 1024 * 4) + 11;
  for (int64_t t = 0; t < static_cast<int64_t>(got.size()) / w.rows; ++t) {
    const auto in = inputs_of(w.type, x, t);
    for (int64_t o = 0; o < w.rows; ++o) {
      double want = bias ? bias[o] : 0, size = std::fabs(want);
      for (int64_t i = 0; i < w.cols; ++i) {
        const auto at = static_cast<size_t>(o * w.cols + i);
        want += static_cast<double>(w.values[at]) * in[static_cast<size_t>(i)];
        size += std::fabs(w.sizes[at] * in[static_cast<size_t>(i)]);
      }
      const float found = got[static_cast<size_t>(t * w.rows + o)];
      if (!(std::fabs(found - want) <= additions * unit * size))
        check::failed(traits_of(w.type).name, static_cast<int>(o),
                      std::to_string(found) + " vs " + std::to_string(want) + ", bound " +
                          std::to_string(additions * unit * size));
    }
  }
}

}  // namespace

TEST(embedded_rows_equal_the_dequantiser_bit_for_bit) {
  for (const TensorType type : shim::all_types) {
    const auto w = shim::random_tensor(type, 5, 2 * shim::least_cols(type));
    const std::vector<int32_t> ids = {4, 0, 0, 3};
    const Matrix before(4, w.cols, 3);
    const auto got = shim::both_orders([&] {
      Matrix out = before;
      cuda::embed_rows(out.view(), w.part(), ids.data(), nullptr);
      return out.data;
    });
    Matrix want = before;
    for (int64_t i = 0; i < 4; ++i)
      std::copy_n(w.values.data() + ids[static_cast<size_t>(i)] * w.cols, w.cols, want.row(i));
    int wrong = 0;
    for (size_t i = 0; i < got.size(); ++i) wrong += !(got[i] == want.data[i]);  // 0 and -0 are the same number
    if (wrong > 0) check::failed(traits_of(type).name, 0, std::to_string(wrong) + " elements differ");
  }
}

// random_blocks.bin: count, then per type: id, bytes, elements, the blocks, gguf.quants.dequantize of them.
TEST(random_blocks_equal_the_gguf_package) {
  std::ifstream in(FOVEAL_TEST_DATA "/quants/random_blocks.bin", std::ios::binary);
  const auto u32 = [&] {
    uint32_t v = 0;
    in.read(reinterpret_cast<char*>(&v), 4);
    return v;
  };
  const uint32_t count = u32();
  CHECK_EQ(count, 24u);
  for (uint32_t s = 0; s < count; ++s) {
    const auto type = static_cast<TensorType>(u32());
    const uint32_t bytes = u32(), elements = u32();
    std::vector<cuda::KvHead> raw(bytes / sizeof(cuda::KvHead) + 1);
    std::vector<float> want(elements), got(elements);
    in.read(reinterpret_cast<char*>(raw.data()), bytes);
    in.read(reinterpret_cast<char*>(want.data()), elements * 4);
    const int32_t id = 0;
    const cuda::WeightPart w{raw.data(), type, 1, elements, shim::codebooks()};
    cuda::embed_rows({got.data(), 1, elements, elements}, w, &id, nullptr);
    int wrong = 0;
    for (size_t i = 0; i < elements; ++i) wrong += !(got[i] == want[i]);
    if (wrong > 0) check::failed(traits_of(type).name, 0, std::to_string(wrong) + " elements differ");
  }
}

TEST(products_of_one_to_eight_rows_of_every_type) {
  for (const TensorType type : shim::all_types) {
    const int64_t block = shim::least_cols(type);
    // 7 outputs: a block of warps in part; one block of inputs, and more units than a warp has lanes
    for (const int64_t cols : {block, block == 32 ? int64_t{1088} : block == 256 ? int64_t{1280} : int64_t{300}}) {
      const auto w = shim::random_tensor(type, 7, cols);
      const Matrix x(8, cols, 4);
      const auto bias = shim::randoms(7);
      const auto all = matvec(w, x, 8, bias.data());
      check_product(w, x, all, bias.data());
      for (int64_t rows = 1; rows < 8; rows += rows == 1 ? 1 : 3) {
        const auto some = matvec(w, x, rows, bias.data());
        CHECK(std::memcmp(some.data(), all.data(), some.size() * 4) == 0);
      }
    }
  }
}

TEST(products_in_both_orders_and_without_bias) {
  for (const TensorType type : {TensorType::Q4_K, TensorType::F16}) {
    const auto w = shim::random_tensor(type, 5, 512);
    const Matrix x(3, 512);
    check_product(w, x, shim::both_orders([&] { return matvec(w, x, 3, nullptr); }), nullptr);
  }
}

TEST(inputs_that_are_zero_or_tiny_give_finite_products) {
  const auto w = shim::random_tensor(TensorType::Q8_0, 3, 64);
  Matrix x(1, 64);
  for (float& v : x.data) v = 0;
  x.data[40] = 1e-38f;
  for (const float v : matvec(w, x, 1, nullptr)) CHECK_EQ(v, 0.0f);
}

TEST(an_infinite_scale_stays_in_its_row) {
  auto w = shim::random_tensor(TensorType::Q4_K, 3, 256);
  const Matrix x(2, 256);
  const auto before = matvec(w, x, 2, nullptr);
  const uint16_t infinity = 0x7c00;
  std::memcpy(reinterpret_cast<char*>(w.room.data()) + 144, &infinity, 2);
  const auto after = matvec(w, x, 2, nullptr);
  for (size_t i = 0; i < 6; ++i) CHECK(i % 3 == 1 ? !std::isfinite(after[i]) : after[i] == before[i]);
}
