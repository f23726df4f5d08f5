// Rows of numbers as tensor data and back, for programs that make files.
#include <cmath>

#include "engine/engine.h"
#include "kernels/quant/dequant.h"
#include "kernels/quant/quantize.h"

namespace foveal {
namespace {

constexpr float kLargestHalf = 65504.0f;

TensorType type_named(const std::string& name) {
  for (int32_t id = 0; id < 64; ++id) {
    const TypeTraits* traits = type_traits(id);
    if (traits && name == traits->name) return static_cast<TensorType>(id);
  }
  fail(ErrorCode::invalid_argument, "found tensor type ", quoted(name), ", expected a name such as 'F16' or 'Q4_K'");
}

// Checks that `size` is a whole number of rows of `row` and returns how many.
int64_t count_rows(const std::string& type, size_t size, int64_t row) {
  if (row < 1 || size % static_cast<size_t>(row) != 0)
    fail(ErrorCode::invalid_argument, "rows of ", type, ": found ", size, ", expected a multiple of a row's ", row);
  return static_cast<int64_t>(size / static_cast<size_t>(row));
}

// Bytes of a row of `cols` elements.
int64_t row_bytes(TensorType type, int64_t cols) {
  const TypeTraits& traits = traits_of(type);
  if (cols < 1 || cols % traits.block_elements != 0)
    fail(ErrorCode::invalid_argument, "rows of ", traits.name, ": found ", cols, " columns, expected a multiple of ",
         traits.block_elements);
  return cols / traits.block_elements * traits.block_bytes;
}

void check_values(TensorType type, std::span<const float> x) {
  if (type == TensorType::F32) return;
  for (size_t i = 0; i < x.size(); ++i)
    if (!(std::fabs(x[i]) <= kLargestHalf))
      fail(ErrorCode::invalid_argument, "rows of ", traits_of(type).name, ": found ", x[i], " at ", i,
           ", expected numbers up to ", kLargestHalf, ", the largest in half precision");
}

}  // namespace

std::vector<uint8_t> quantize_rows(const std::string& type, std::span<const float> x, int64_t cols) {
  const TensorType to = type_named(type);
  if (!can_quantize(to)) fail(ErrorCode::invalid_argument, "tensor type ", type, " can be read here, but not written");
  const int64_t bytes = row_bytes(to, cols), rows = count_rows(type, x.size(), cols);
  check_values(to, x);
  std::vector<uint8_t> out(static_cast<size_t>(rows * bytes));
  for (int64_t r = 0; r < rows; ++r) quantize_row(to, x.data() + r * cols, out.data() + r * bytes, cols);
  return out;
}

std::vector<float> dequantize_rows(const std::string& type, std::span<const uint8_t> blocks, int64_t cols) {
  const TensorType from = type_named(type);
  const int64_t bytes = row_bytes(from, cols), rows = count_rows(type, blocks.size(), bytes);
  std::vector<float> out(static_cast<size_t>(rows) * static_cast<size_t>(cols));
  for (int64_t r = 0; r < rows; ++r) dequantize_row(from, blocks.data() + r * bytes, out.data() + r * cols, cols);
  return out;
}

}  // namespace foveal
