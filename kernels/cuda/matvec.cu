// out = x W^T (+ bias) for up to 8 rows of x: every weight is read once, straight from the GGUF blocks. One warp an
// output; quantised weights meet inputs of 8 bits in integer dots (dp4a), float weights meet float32 inputs.
#include "kernels/cuda/floats.cuh"
#include "kernels/cuda/matvec_inputs.cuh"
#include "kernels/cuda/unpack.cuh"

namespace foveal::cuda {

namespace {

constexpr unsigned warps = 4;  // outputs a block

struct Product {
  Rows out;
  WeightPart w;
  ConstRows x;
  MatvecInputs in;
  const float* bias;
};

// Sums over the lanes, to out[t][row].
template <int N>
__device__ __forceinline__ void put(const Product& p, int64_t row, float (&sums)[N]) {
#pragma unroll
  for (int t = 0; t < N; ++t) {
    if (t >= p.x.rows) return;
    const float sum = warp_sum(sums[t]);
    if (threadIdx.x % 32 == 0) p.out.data[t * p.out.stride + row] = p.bias ? sum + p.bias[row] : sum;
  }
}

// 16 codes of weights against 16 of inputs.
__device__ __forceinline__ int dot16(const uint32_t* q, const int8_t* codes) {
  const int4 c = *reinterpret_cast<const int4*>(codes);
  int dot = __dp4a(static_cast<int>(q[0]), c.x, 0);
  dot = __dp4a(static_cast<int>(q[1]), c.y, dot);
  dot = __dp4a(static_cast<int>(q[2]), c.z, dot);
  return __dp4a(static_cast<int>(q[3]), c.w, dot);
}

// N: rows of x that the code is unrolled for, 1 or max_matvec_rows.
template <TensorType Type, int N>
__global__ void __launch_bounds__(warps * 32) matvec_units(Product p) {
  using F = Format<Type>;
  constexpr int units = F::elements / 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32, cols = p.w.cols;
  if (row >= p.w.rows) return;
  const uint8_t* weights = static_cast<const uint8_t*>(p.w.data) + row * (cols / F::elements) * F::bytes;
  float sums[N] = {};
#pragma unroll 2
  for (int64_t unit = threadIdx.x % 32; unit < cols / 32; unit += 32) {
    const int64_t block = unit / units, first = block * F::elements;
    Unit o;
    F::unpack(o, weights + block * F::bytes, static_cast<int>(unit % units), p.w.codebooks);
#pragma unroll
    for (int t = 0; t < N; ++t) {
      if (N > 1 && t >= p.x.rows) break;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int64_t at = first + o.at[h];
        const auto dot = static_cast<float>(dot16(o.q + 4 * h, p.in.codes + t * cols + at));
        sums[t] = fmaf(dot * o.d[h], p.in.scales[t * (cols / 32) + at / 32], sums[t]);
        if (F::mins) sums[t] = fmaf(-o.m[h], p.in.sums[t * (cols / 16) + at / 16], sums[t]);
      }
    }
  }
  put(p, row, sums);
}

// Four: rows of weights and of x start at multiples of four elements.
template <TensorType Type, int N, bool Four>
__global__ void __launch_bounds__(warps * 32) matvec_floats(Product p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32, cols = p.w.cols;
  if (row >= p.w.rows) return;
  const uint8_t* weights = static_cast<const uint8_t*>(p.w.data) + row * cols * float_bytes<Type>;
  float sums[N] = {};
  constexpr int step = Four ? 4 : 1;
#pragma unroll 2
  for (int64_t i = threadIdx.x % 32 * step; i < cols; i += 32 * step) {
    const float4 w = Four ? four_floats<Type>(weights, i) : make_float4(float_at<Type>(weights, i), 0, 0, 0);
#pragma unroll
    for (int t = 0; t < N; ++t) {
      if (N > 1 && t >= p.x.rows) break;
      const float* x = p.x.data + t * p.x.stride + i;
      if (Four) {
        const float4 four = *reinterpret_cast<const float4*>(x);
        sums[t] = fmaf(w.x, four.x, fmaf(w.y, four.y, fmaf(w.z, four.z, fmaf(w.w, four.w, sums[t]))));
      } else {
        sums[t] = fmaf(w.x, x[0], sums[t]);
      }
    }
  }
  put(p, row, sums);
}

template <TensorType Type>
void launch_units(const Product& p, Stream stream) {
  const unsigned grid = blocks_of(p.w.rows, warps);
  if (p.x.rows == 1) return FOVEAL_LAUNCH((matvec_units<Type, 1>), grid, warps * 32, 0, stream, p);
  FOVEAL_LAUNCH((matvec_units<Type, max_matvec_rows>), grid, warps * 32, 0, stream, p);
}

template <TensorType Type>
void launch_floats(const Product& p, Stream stream) {
  const unsigned grid = blocks_of(p.w.rows, warps);
  const bool four = p.w.cols % 4 == 0 && p.x.stride % 4 == 0 && reinterpret_cast<uintptr_t>(p.x.data) % 16 == 0;
  if (!four) return FOVEAL_LAUNCH((matvec_floats<Type, max_matvec_rows, false>), grid, warps * 32, 0, stream, p);
  if (p.x.rows == 1) return FOVEAL_LAUNCH((matvec_floats<Type, 1, true>), grid, warps * 32, 0, stream, p);
  FOVEAL_LAUNCH((matvec_floats<Type, max_matvec_rows, true>), grid, warps * 32, 0, stream, p);
}

}  // namespace

void matvec(Rows out, const WeightPart& w, ConstRows x, const void* room, const float* bias, Stream stream) {
  if (x.rows == 0 || w.rows == 0) return;
  const Product p{out, w, x, matvec_layout(const_cast<void*>(room), x.rows, x.cols), bias};
  switch (w.type) {
#define FOVEAL_CASE(T) \
  case TensorType::T:  \
    return launch_units<TensorType::T>(p, stream);
    FOVEAL_QUANTISED(FOVEAL_CASE)
#undef FOVEAL_CASE
    case TensorType::F32:
      return launch_floats<TensorType::F32>(p, stream);
    case TensorType::F16:
      return launch_floats<TensorType::F16>(p, stream);
    case TensorType::BF16:
      return launch_floats<TensorType::BF16>(p, stream);
  }
}

}  // namespace foveal::cuda
