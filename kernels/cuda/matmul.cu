// out = x W^T (+ bias) for many rows of x: tiles of weights are dequantised to fp16 in shared memory and multiplied on
// tensor cores with float32 sums. While a step's tiles are multiplied, the next step's come into registers.
#include "kernels/cuda/floats.cuh"
#include "kernels/cuda/matmul_inputs.cuh"
#include "kernels/cuda/tile16.cuh"
#include "kernels/cuda/unpack.cuh"

namespace foveal::cuda {

namespace {

constexpr int threads = 256, outputs = 128;           // outputs of a block's tile: two threads a row of weights
constexpr int step = matmul_step, stride = step + 8;  // inputs at a time; halves from row to row in shared memory

struct Product {
  Rows out;
  WeightPart w;
  MatmulInputs in;
  const float* bias;
};

__device__ __forceinline__ uint32_t two_halves(float a, float b) {
  return float_to_half_bits(a) | static_cast<uint32_t>(float_to_half_bits(b)) << 16;
}

// A thread's share of a step's weights: 32 inputs of one output. fetch reads them, put writes fp16 to the tile's row.
template <TensorType Type>
struct Share {
  using F = Format<Type>;
  Unit unit;
  __device__ __forceinline__ void fetch(const WeightPart& w, int64_t row, int64_t first) {
    if (row >= w.rows || first >= w.cols) {
      unit = Unit{};
      set_straight(unit, static_cast<int>(first % step / 32));
      return;
    }
    const int64_t block = first / F::elements;
    const uint8_t* from = static_cast<const uint8_t*>(w.data) + (row * (w.cols / F::elements) + block) * F::bytes;
    F::unpack(unit, from, static_cast<int>(first % F::elements / 32), w.codebooks);
    if (F::elements == 32) set_straight(unit, static_cast<int>(first % step / 32));
  }
  __device__ __forceinline__ void put(half* row) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      auto* to = reinterpret_cast<uint4*>(row + unit.at[h] % step);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t words[4];
#pragma unroll
        for (int j = 0; j < 4; ++j)
          words[j] = two_halves(unit_value(unit, h, 8 * i + 2 * j), unit_value(unit, h, 8 * i + 2 * j + 1));
        to[i] = make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
  }
};

template <TensorType Type>
struct FloatShare {
  uint32_t words[16];
  int at;
  __device__ __forceinline__ void fetch(const WeightPart& w, int64_t row, int64_t first) {
    const auto* from = static_cast<const uint8_t*>(w.data) + row * w.cols * float_bytes<Type>;
    at = static_cast<int>(first % step);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int64_t c = first + 2 * i;
      words[i] = two_halves(row < w.rows && c < w.cols ? float_at<Type>(from, c) : 0.0f,
                            row < w.rows && c + 1 < w.cols ? float_at<Type>(from, c + 1) : 0.0f);
    }
  }
  __device__ __forceinline__ void put(half* row) const {
    auto* to = reinterpret_cast<uint4*>(row + at);
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = make_uint4(words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
  }
};

// Grid: tiles of Tokens rows of x; tiles of outputs. The 8 warps lie Down x (8 / Down) over outputs x tokens.
template <class WeightShare, int Tokens, int Down>
__global__ void __launch_bounds__(threads) matmul_tiles(Product p) {
  constexpr int across = 8 / Down, left = outputs / Down / 16, right = Tokens / across / 16;
  constexpr int copies = Tokens * step / 8 / threads;  // of 8 halves, a thread
  __shared__ __align__(32) half weights[outputs * stride];
  __shared__ __align__(32) half inputs[Tokens * stride];
  const int tid = static_cast<int>(threadIdx.x), warp = tid / 32;
  const int64_t token0 = static_cast<int64_t>(blockIdx.x) * Tokens,
                output0 = static_cast<int64_t>(blockIdx.y) * outputs;
  const int64_t n_tokens = p.out.rows;

  WeightShare share;
  uint4 x[copies];
  const auto fetch = [&](int64_t k) {
    share.fetch(p.w, output0 + tid / 2, k + tid % 2 * 32);
#pragma unroll
    for (int i = 0; i < copies; ++i) {
      const int at = tid + i * threads, row = at / (step / 8), col = at % (step / 8) * 8;
      x[i] = token0 + row < n_tokens
                 ? *reinterpret_cast<const uint4*>(p.in.values + (token0 + row) * p.in.padded + k + col)
                 : make_uint4(0, 0, 0, 0);
    }
  };
  SumTile sums[left][right];
#pragma unroll
  for (int i = 0; i < left; ++i)
#pragma unroll
    for (int j = 0; j < right; ++j) clear(sums[i][j]);
  const half* my_weights = weights + warp % Down * left * 16 * stride;
  const half* my_inputs = inputs + warp / Down * right * 16 * stride;
  fetch(0);
  for (int64_t k = 0; k < p.in.padded; k += step) {
    __syncthreads();
    share.put(weights + tid / 2 * stride);
#pragma unroll
    for (int i = 0; i < copies; ++i) {
      const int at = tid + i * threads;
      *reinterpret_cast<uint4*>(inputs + at / (step / 8) * stride + at % (step / 8) * 8) = x[i];
    }
    __syncthreads();
    if (k + step < p.in.padded) fetch(k + step);
#pragma unroll
    for (int kk = 0; kk < step; kk += 16) {
      LeftTile a[left];
      RightTile b;
#pragma unroll
      for (int i = 0; i < left; ++i) read_tile(a[i], my_weights + i * 16 * stride + kk, stride);
#pragma unroll
      for (int j = 0; j < right; ++j) {
        read_tile(b, my_inputs + j * 16 * stride + kk, stride);
#pragma unroll
        for (int i = 0; i < left; ++i) multiply(sums[i][j], a[i], b);
      }
    }
  }
  __syncthreads();
  float* room = reinterpret_cast<float*>(weights) + warp * 256;  // a tile of each warp: [token][output]
  const int lane = tid % 32;
#pragma unroll
  for (int i = 0; i < left; ++i)
#pragma unroll
    for (int j = 0; j < right; ++j) {
      write_tile(room, sums[i][j]);
      __syncwarp();
      for (int at = lane; at < 256; at += 32) {
        const int64_t token = token0 + (warp / Down * right + j) * 16 + at / 16;
        const int64_t output = output0 + (warp % Down * left + i) * 16 + at % 16;
        if (token < n_tokens && output < p.w.rows)
          p.out.data[token * p.out.stride + output] = room[at] * p.in.unscale[token] + (p.bias ? p.bias[output] : 0.0f);
      }
      __syncwarp();
    }
}

template <class WeightShare>
void launch(const Product& p, Stream stream) {
  const auto grid = [&](int tokens) { return dim3(blocks_of(p.out.rows, tokens), blocks_of(p.w.rows, outputs)); };
  if (p.out.rows <= 32) return FOVEAL_LAUNCH((matmul_tiles<WeightShare, 32, 8>), grid(32), threads, 0, stream, p);
  FOVEAL_LAUNCH((matmul_tiles<WeightShare, 128, 2>), grid(128), threads, 0, stream, p);
}

}  // namespace

void matmul(Rows out, const WeightPart& w, ConstRows x, const void* room, const float* bias, Stream stream) {
  if (x.rows == 0 || w.rows == 0) return;
  const Product p{out, w, matmul_layout(const_cast<void*>(room), x.rows, x.cols), bias};
  switch (w.type) {
#define FOVEAL_CASE(T) \
  case TensorType::T:  \
    return launch<Share<TensorType::T>>(p, stream);
    FOVEAL_QUANTISED(FOVEAL_CASE)
#undef FOVEAL_CASE
    case TensorType::F32:
      return launch<FloatShare<TensorType::F32>>(p, stream);
    case TensorType::F16:
      return launch<FloatShare<TensorType::F16>>(p, stream);
    case TensorType::BF16:
      return launch<FloatShare<TensorType::BF16>>(p, stream);
  }
}

}  // namespace foveal::cuda
