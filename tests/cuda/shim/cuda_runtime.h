// For tests only: enough of CUDA C++ for kernels/cuda/*.cu to compile as C++ and run on the host, thread by thread.
// Blocks run one after another; the threads of a block are fibers that meet at barriers and warp shuffles. Included by
// the kernels in place of the toolkit's header of the same name.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define FOVEAL_CUDA_SHIM 1
#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
inline int4 make_int4(int x, int y, int z, int w) {
  return {x, y, z, w};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}

struct CUstream_st;
using cudaStream_t = CUstream_st*;

namespace shim {

struct Coordinates {
  dim3 thread, block, block_size, grid_size;
};
extern Coordinates now;  // of the running thread
extern bool backwards;   // threads of a block start in falling order: finds barriers that are missing
extern long launches;    // kernels run so far
void barrier();          // __syncthreads
uint64_t exchange(unsigned mask, uint64_t value, int from);  // value of lane `from` of this warp
uint64_t ballot(unsigned mask, bool value);
void gather(uint64_t value, uint64_t (&all)[32]);  // the values of all lanes
void sync_warp(unsigned mask);
unsigned char* dynamic_shared();
// Where launches go that don't run at once; nullptr: they do.
extern std::vector<std::function<void()>>* recorder;
// Runs body for all threads of all blocks. Dynamic shared memory starts as NaNs in every block.
void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);

template <class T>
T exchange_as(unsigned mask, T value, int from) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(mask, bits, from);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
inline int lane() {
  const Coordinates& c = now;
  return static_cast<int>((c.thread.x + c.block_size.x * (c.thread.y + c.block_size.y * c.thread.z)) % 32);
}

}  // namespace shim

#define threadIdx (shim::now.thread)
#define blockIdx (shim::now.block)
#define blockDim (shim::now.block_size)
#define gridDim (shim::now.grid_size)

inline void __syncthreads() {
  shim::barrier();
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  shim::sync_warp(mask);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  return shim::exchange_as(mask, value, shim::lane() / width * width + from % width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  return shim::exchange_as(mask, value, shim::lane() ^ lane_mask);
}
inline unsigned __ballot_sync(unsigned mask, int value) {
  return static_cast<unsigned>(shim::ballot(mask, value != 0));
}

// ---- arithmetic; without contraction (the kernels are compiled with -ffp-contract=off here)
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  return c;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selectors) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  unsigned y = 0;
  for (int i = 0; i < 4; ++i) y |= static_cast<unsigned>(bytes >> 8 * (selectors >> 4 * i & 7) & 255) << 8 * i;
  return y;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31));
}
inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline float __uint_as_float(unsigned u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}
inline unsigned __float_as_uint(float x) {
  unsigned u;
  std::memcpy(&u, &x, 4);
  return u;
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __expf(float x) {
  return std::exp(x);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}
inline int min(int a, int b) {
  return a < b ? a : b;
}
inline int max(int a, int b) {
  return a > b ? a : b;
}
inline int64_t min(int64_t a, int64_t b) {
  return a < b ? a : b;
}
inline int64_t max(int64_t a, int64_t b) {
  return a > b ? a : b;
}
template <class T>
T __ldg(const T* p) {
  return *p;
}

// ---- launch attributes: nothing to set on the host
enum cudaError_t { cudaSuccess = 0 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
template <class F>
cudaError_t cudaFuncSetAttribute(F*, cudaFuncAttribute, int) {
  return cudaSuccess;
}
