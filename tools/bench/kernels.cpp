// Speed of matrix products by weight type and shape: Gop/s (or GFLOP/s) and GB/s of packed weights, with the machine's
// own limits, measured in the same run, beside them. Usage: bench_kernels [threads] [isa] [type, such as Q4_K]
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "engine/backend/choose_isa.h"
#include "engine/backend/cpu_weight.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own intrinsics pass deliberately undefined operands (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#endif

using namespace foveal;

namespace {

// Fewest seconds of one call over about 0.2 s, after a warm-up: the machine may be shared.
double seconds_of(const std::function<void()>& call) {
  using clock = std::chrono::steady_clock;
  call();
  double best = 1e9;
  const auto end = clock::now() + std::chrono::milliseconds(200);
  for (int i = 0; i < 5 || clock::now() < end; ++i) {
    const auto start = clock::now();
    call();
    best = std::min(best, std::chrono::duration<double>(clock::now() - start).count());
  }
  return best;
}

// ---- the machine's limits: operations in registers alone, reads of a buffer

constexpr int kRounds = 200000, kChains = 12;

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512vnni"))) int dots_512() {
  __m512i acc[kChains], a = _mm512_set1_epi32(1), b = _mm512_set1_epi32(2);
  for (auto& v : acc) v = _mm512_setzero_si512();
  for (int i = 0; i < kRounds; ++i) {
    for (auto& v : acc) v = _mm512_dpbusd_epi32(v, a, b);
    __asm__ volatile("" : "+v"(a));
  }
  for (int i = 1; i < kChains; ++i) acc[0] = _mm512_add_epi32(acc[0], acc[i]);
  return _mm512_reduce_add_epi32(acc[0]);
}

__attribute__((target("avx512f"))) int fmas_512() {
  __m512 acc[kChains], a = _mm512_set1_ps(1), b = _mm512_set1_ps(2);
  for (auto& v : acc) v = _mm512_setzero_ps();
  for (int i = 0; i < kRounds; ++i) {
    for (auto& v : acc) v = _mm512_fmadd_ps(a, b, v);
    __asm__ volatile("" : "+v"(a));
  }
  for (int i = 1; i < kChains; ++i) acc[0] = _mm512_add_ps(acc[0], acc[i]);
  return static_cast<int>(_mm512_reduce_add_ps(acc[0]));
}

__attribute__((target("avx2"))) int dots_256() {
  __m256i acc[kChains], a = _mm256_set1_epi32(1), b = _mm256_set1_epi32(2);
  const __m256i ones = _mm256_set1_epi16(1);
  for (auto& v : acc) v = _mm256_setzero_si256();
  for (int i = 0; i < kRounds; ++i) {
    for (auto& v : acc) v = _mm256_add_epi32(v, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
    __asm__ volatile("" : "+x"(a));
  }
  for (int i = 1; i < kChains; ++i) acc[0] = _mm256_add_epi32(acc[0], acc[i]);
  return _mm256_extract_epi32(acc[0], 0);
}

__attribute__((target("avx2,fma"))) int fmas_256() {
  __m256 acc[kChains], a = _mm256_set1_ps(1), b = _mm256_set1_ps(2);
  for (auto& v : acc) v = _mm256_setzero_ps();
  for (int i = 0; i < kRounds; ++i) {
    for (auto& v : acc) v = _mm256_fmadd_ps(a, b, v);
    __asm__ volatile("" : "+x"(a));
  }
  for (int i = 1; i < kChains; ++i) acc[0] = _mm256_add_ps(acc[0], acc[i]);
  return static_cast<int>(_mm256_cvtss_f32(acc[0]));
}
#endif

struct Limits {
  double int8 = 0, fp32 = 0;  // operations a second; 0: not known for this instruction set
};

Limits measure_limits(ThreadPool& pool, Isa isa) {
  Limits limits;
#if defined(__x86_64__)
  if (isa == Isa::scalar) return limits;
  const bool wide = isa == Isa::avx512;
  std::atomic<int> sink{0};  // keeps the loops alive
  const auto speed = [&](int (*loop)(), int lanes) {
    const double s = seconds_of([&] { pool.run([&](int, int) { sink += loop(); }); });
    return 2.0 * lanes * kChains * kRounds * pool.size() / s;
  };
  limits.int8 = wide ? speed(dots_512, 64) : speed(dots_256, 32);
  limits.fp32 = wide ? speed(fmas_512, 16) : speed(fmas_256, 8);
#endif
  return limits;
}

// As packed weights lie: on large pages where the system grants them.
double read_bandwidth(ThreadPool& pool, size_t bytes) {
  Buffer<uint64_t> buffer(bytes / 8);
#if defined(__linux__)
  const size_t page = 4096, skip = (page - reinterpret_cast<size_t>(buffer.data()) % page) % page;
  madvise(reinterpret_cast<char*>(buffer.data()) + skip, bytes - skip, MADV_HUGEPAGE);
#endif
  std::fill_n(buffer.data(), buffer.size(), 1);
  std::atomic<uint64_t> sink{0};
  constexpr size_t kPiece = 1 << 15;
  const double s = seconds_of([&] {
    pool.for_each(static_cast<int64_t>(buffer.size() / kPiece), [&](int64_t i) {
      const uint64_t* p = buffer.data() + static_cast<size_t>(i) * kPiece;
      uint64_t sum = 0;
      for (size_t j = 0; j < kPiece; ++j) sum += p[j];
      sink += sum;
    });
  });
  return static_cast<double>(bytes) / s;
}

// ---- products

struct Bench {
  ThreadPool& pool;
  Isa isa;
  Limits limits;
  double bandwidth;
};

// Weights out of the caches, as a model's layers are: copies of one matrix, each multiplied in turn.
void product(const Bench& b, TensorType type, int64_t rows, int64_t cols, std::initializer_list<int> tokens) {
  const TypeTraits& traits = traits_of(type);
  const auto bytes = static_cast<size_t>(rows * cols / traits.block_elements * traits.block_bytes);
  const std::vector<uint8_t> raw(bytes, 0x2a);  // ordinary numbers in every type
  const TensorInfo info{"w", type, {cols, rows}, raw.data(), bytes};
  const TensorInfo* part = &info;
  std::vector<WeightPtr> copies;
  size_t held = 0;
  do {
    copies.push_back(pack_weight(std::span(&part, 1)));
    pack_all(static_cast<const CpuWeight&>(*copies.back()), b.pool);
    held += copies.back()->bytes;
  } while (held < (size_t{96} << 20));
  MatmulScratch scratch;
  const bool quantised = static_cast<const CpuWeight&>(*copies[0]).quantised;
  for (const int t : tokens) {
    Matrix x(t, cols), out(t, rows);
    for (int64_t i = 0; i < t * cols; ++i) x.view().data[i] = static_cast<float>(i % 17 - 8);
    const size_t used = t <= 16 ? copies.size() : std::min<size_t>(copies.size(), 2);
    const double s =
        seconds_of([&] {
          for (size_t i = 0; i < used; ++i)
            cpu_matmul(b.pool, matmul_kernels(b.isa), out.view(), static_cast<const CpuWeight&>(*copies[i]), x.view(),
                       nullptr, scratch, amx_kernels(b.isa));
        }) /
        static_cast<double>(used);
    const double ops = 2.0 * static_cast<double>(rows * cols) * t / s;
    const double read = static_cast<double>(copies[0]->bytes) / s, peak = quantised ? b.limits.int8 : b.limits.fp32;
    std::printf("%-7s %6ld x %5ld  T %4d  %9.1f us  %7.1f %s", traits.name, rows, cols, t, s * 1e6, ops * 1e-9,
                quantised ? "Gop/s  " : "GFLOP/s");
    if (peak > 0) std::printf(" %5.1f %%", 100 * ops / peak);
    std::printf("  %5.1f GB/s %5.1f %%\n", read * 1e-9, 100 * read / b.bandwidth);
  }
}

}  // namespace

int main(int argc, char** argv) {
  ThreadPool pool(argc > 1 && std::atoi(argv[1]) > 0 ? std::atoi(argv[1]) : ThreadPool::default_threads());
  Bench b{pool, choose_isa(argc > 2 ? argv[2] : ""), {}, 0};
  const std::string only = argc > 3 ? argv[3] : "";
  b.limits = measure_limits(pool, b.isa);
  b.bandwidth = read_bandwidth(pool, 96000000);
  std::printf("%s, %d threads: int8 %.0f Gop/s, fp32 %.0f GFLOP/s, reads in GB/s:", isa_name(b.isa), pool.size(),
              b.limits.int8 * 1e-9, b.limits.fp32 * 1e-9);
  for (const size_t mb : {32, 64, 96, 128, 144, 152, 192, 256, 384, 1024})
    std::printf("  %.1f of %zu MB", read_bandwidth(pool, mb * 1000000) * 1e-9, mb);
  std::printf("\n");
  const auto wanted = [&](TensorType t) { return only.empty() || only == traits_of(t).name; };
  for (const TensorType t :
       {TensorType::Q4_0, TensorType::Q4_1, TensorType::Q5_0, TensorType::Q5_1, TensorType::Q8_0, TensorType::IQ4_NL}) {
    if (wanted(t)) product(b, t, 1536, 576, {1, 512});
  }
  for (const TensorType t : {TensorType::Q4_0, TensorType::Q8_0, TensorType::Q2_K, TensorType::Q3_K, TensorType::Q4_K,
                             TensorType::Q5_K, TensorType::Q6_K, TensorType::IQ4_XS, TensorType::MXFP4}) {
    if (wanted(t)) product(b, t, 8960, 1536, {1, 2, 3, 4, 6, 8, 16, 512});
  }
  for (const TensorType t : {TensorType::Q4_0, TensorType::Q8_0}) {
    if (!wanted(t)) continue;
    product(b, t, 576, 1536, {1, 512});
    product(b, t, 576, 576, {1, 512});
    product(b, t, 49152, 576, {1});
    product(b, t, 1536, 8960, {1, 512});
  }
  for (const TensorType t : {TensorType::F16, TensorType::F32, TensorType::BF16}) {
    if (!wanted(t)) continue;
    product(b, t, 768, 768, {1, 1024});
    product(b, t, 3072, 768, {1024});
    product(b, t, 768, 3072, {1024});
    product(b, t, 4304, 1152, {1, 8, 1024});
    product(b, t, 1152, 4304, {1024});
  }
  return 0;
}
