// out[i] = W[ids[i]] as float32, of any type: one thread a unit of 32 elements, or an element of the float types.
#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/floats.cuh"
#include "kernels/cuda/unpack.cuh"

namespace foveal::cuda {

namespace {

// Columns of the grid: units of a row.
template <TensorType Type>
__global__ void embed_units(Rows out, WeightPart w, const int32_t* ids) {
  using F = Format<Type>;
  const int64_t row_bytes = w.cols / F::elements * F::bytes;
  for_elements(out.rows, w.cols / 32, [&](int64_t row, int64_t unit) {
    const int64_t block = unit * 32 / F::elements;
    const uint8_t* from = static_cast<const uint8_t*>(w.data) + ids[row] * row_bytes + block * F::bytes;
    float* to = out.data + row * out.stride + block * F::elements;
    Unit o;
    F::unpack(o, from, static_cast<int>(unit - block * (F::elements / 32)), w.codebooks);
    for (int h = 0; h < 2; ++h)
      for (int i = 0; i < 16; ++i) to[o.at[h] + i] = unit_value(o, h, i);
  });
}

template <TensorType Type>
__global__ void embed_floats(Rows out, WeightPart w, const int32_t* ids) {
  for_elements(out.rows, w.cols, [&](int64_t row, int64_t col) {
    const auto* from = static_cast<const uint8_t*>(w.data) + ids[row] * w.cols * float_bytes<Type>;
    out.data[row * out.stride + col] = float_at<Type>(from, col);
  });
}

}  // namespace

void embed_rows(Rows out, const WeightPart& w, const int32_t* ids, Stream stream) {
  if (out.rows == 0) return;
  const dim3 grid = element_grid(out.rows, w.cols / 32), grid_floats = element_grid(out.rows, w.cols);
  switch (w.type) {
#define FOVEAL_CASE(T) \
  case TensorType::T:  \
    return FOVEAL_LAUNCH((embed_units<TensorType::T>), grid, element_threads, 0, stream, out, w, ids);
    FOVEAL_QUANTISED(FOVEAL_CASE)
#undef FOVEAL_CASE
#define FOVEAL_CASE(T) \
  case TensorType::T:  \
    return FOVEAL_LAUNCH((embed_floats<TensorType::T>), grid_floats, element_threads, 0, stream, out, w, ids);
    FOVEAL_CASE(F32) FOVEAL_CASE(F16) FOVEAL_CASE(BF16)
#undef FOVEAL_CASE
  }
}

}  // namespace foveal::cuda
