// What a card reaches at most, measured: reading memory, and products of 16-bit tiles on its tensor cores through the
// instructions that the kernels use. Prints a line of JSON. Build: nvcc -O3 -std=c++20 -arch=native gpu_limits.cu
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <mma.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace {

constexpr int threads = 256, rounds = 4096, chains = 8;  // products a warp keeps under way, each on sums of its own

void check(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "gpu_limits: %s: %s\n", call, cudaGetErrorString(error));
  std::exit(1);
}

__global__ void read_all(const uint4* from, size_t n, unsigned* sink) {
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  unsigned sum = 0;
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    const uint4 v = __ldg(from + i);
    sum += v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0x12345678u) *sink = sum;  // never: nothing may be left out
}

// bfloat16 from Ampere on; Turing has fp16 alone, at the same rate.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
using Number = half;
#else
using Number = __nv_bfloat16;
#endif

__global__ void multiply_tiles(float* sink) {
  using namespace nvcuda::wmma;
  fragment<matrix_a, 16, 16, 16, Number, row_major> a;
  fragment<matrix_b, 16, 16, 16, Number, col_major> b;
  fragment<accumulator, 16, 16, 16, float> sums[chains];
  fill_fragment(a, Number(1.0f));
  fill_fragment(b, Number(0.5f));
#pragma unroll
  for (int i = 0; i < chains; ++i) fill_fragment(sums[i], 0.0f);
  for (int r = 0; r < rounds; ++r) {
#pragma unroll
    for (int i = 0; i < chains; ++i) mma_sync(sums[i], a, b, sums[i]);
  }
  float total = 0;
#pragma unroll
  for (int i = 0; i < chains; ++i) total += sums[i].x[0];
  if (total < 0) *sink = total;
}

// Milliseconds of the fastest of ten runs after one that warms up.
template <class Launch>
float fastest(Launch launch) {
  cudaEvent_t start, stop;
  check(cudaEventCreate(&start), "cudaEventCreate");
  check(cudaEventCreate(&stop), "cudaEventCreate");
  float best = 0;
  for (int i = 0; i <= 10; ++i) {
    check(cudaEventRecord(start), "cudaEventRecord");
    launch();
    check(cudaGetLastError(), "launch");
    check(cudaEventRecord(stop), "cudaEventRecord");
    check(cudaEventSynchronize(stop), "cudaEventSynchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start, stop), "cudaEventElapsedTime");
    if (i > 0) best = i == 1 ? ms : std::min(best, ms);
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  const int device = argc > 1 ? std::atoi(argv[1]) : 0;
  cudaDeviceProp p{};
  check(cudaSetDevice(device), "cudaSetDevice");
  check(cudaGetDeviceProperties(&p, device), "cudaGetDeviceProperties");
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  // Far more than the caches hold.
  const size_t bytes = std::min<size_t>(free / 2, size_t{2} << 30) / 4096 * 4096;
  void* room = nullptr;
  check(cudaMalloc(&room, bytes + 16), "cudaMalloc");
  check(cudaMemset(room, 1, bytes + 16), "cudaMemset");
  auto* sink = reinterpret_cast<unsigned*>(static_cast<char*>(room) + bytes);
  const unsigned many = static_cast<unsigned>(p.multiProcessorCount) * 8;
  const float read_ms =
      fastest([&] { read_all<<<many, threads>>>(static_cast<const uint4*>(room), bytes / sizeof(uint4), sink); });
  const float tiles_ms = fastest([&] { multiply_tiles<<<many, threads>>>(reinterpret_cast<float*>(sink)); });
  const double flops = 2.0 * 16 * 16 * 16 * rounds * chains * (threads / 32) * many;
  std::printf("{\"name\": \"%s\", \"capability\": \"%d.%d\", \"memory\": %zu, \"bandwidth\": %.4e, \"flops\": %.4e}\n",
              p.name, p.major, p.minor, total, static_cast<double>(bytes) / read_ms * 1e3, flops / tiles_ms * 1e3);
  return 0;
}
