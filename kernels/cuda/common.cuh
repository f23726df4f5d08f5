// What every kernel here uses: launching, dynamic shared memory, sums over a warp or a block, half precision by bits.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/launch.h"

// kernel<<<grid, block, shared, stream>>>(...); a templated kernel's name goes in brackets. The tests' shim runs it
// here.
#ifdef FOVEAL_CUDA_SHIM
#define FOVEAL_LAUNCH(kernel, grid, block, shared, stream, ...) \
  ((void)(stream), shim::launch(grid, block, shared, [=] { kernel(__VA_ARGS__); }))
#define FOVEAL_SHARED(name) unsigned char* name = shim::dynamic_shared()
#else
#define FOVEAL_LAUNCH(kernel, grid, block, shared, stream, ...) kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define FOVEAL_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace foveal::cuda {

constexpr unsigned all_lanes = 0xffffffffu;
constexpr float lowest = -1e30f;  // the maximum of nothing, as in the scalar kernels

__device__ __forceinline__ float warp_sum(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(all_lanes, x, step);
  return x;
}

__device__ __forceinline__ float warp_max(float x) {
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(all_lanes, x, step));
  return x;
}

// The sum over a block of whole warps (at most 32) in every thread, in a fixed order; room: 32 floats of shared memory.
__device__ __forceinline__ float block_sum(float x, float* room) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int n_warps = static_cast<int>(blockDim.x) / 32;
  x = warp_sum(x);
  __syncthreads();
  if (lane == 0) room[warp] = x;
  __syncthreads();
  return warp_sum(lane < n_warps ? room[lane] : 0.0f);
}

__device__ __forceinline__ float block_max(float x, float* room) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int n_warps = static_cast<int>(blockDim.x) / 32;
  x = warp_max(x);
  __syncthreads();
  if (lane == 0) room[warp] = x;
  __syncthreads();
  return warp_max(lane < n_warps ? room[lane] : lowest);
}

__device__ __forceinline__ float half_bits_to_float(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}
__device__ __forceinline__ uint16_t float_to_half_bits(float x) {
  return __half_as_ushort(__float2half_rn(x));
}

__device__ __forceinline__ float capped(float s, float softcap) {
  return softcap > 0 ? softcap * tanhf(s / softcap) : s;
}

inline unsigned blocks_of(int64_t n, int64_t size) {
  return static_cast<unsigned>((n + size - 1) / size);
}

}  // namespace foveal::cuda
