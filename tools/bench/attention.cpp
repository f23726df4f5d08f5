// Speed of the CPU backend's attention and row-wise kernels: GFLOP/s of the prefill and encoder forms, GB/s of kept
// rows in decode, with the machine's own fp32 peak beside them. Usage: bench_attention [threads] [isa]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "engine/backend/backend.h"

using namespace foveal;

namespace {

// Median seconds of one call over about 0.3 s, after a warm-up.
double seconds_of(const std::function<void()>& call) {
  using clock = std::chrono::steady_clock;
  call();
  std::vector<double> times;
  const auto end = clock::now() + std::chrono::milliseconds(300);
  while (clock::now() < end || times.size() < 5) {
    const auto start = clock::now();
    call();
    times.push_back(std::chrono::duration<double>(clock::now() - start).count());
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void fill(Mat m) {
  uint32_t state = 1;
  for (int64_t i = 0; i < m.rows; ++i) {
    for (int64_t j = 0; j < m.cols; ++j) {
      state = state * 1664525u + 1013904223u;
      m.row(i)[j] = static_cast<float>(state >> 8) / (1 << 23) - 1;
    }
  }
}

void prefill(Backend& b, int64_t head_dim, int64_t group, int64_t n_kv, int64_t past, int64_t n) {
  const int64_t cols = n_kv * group * head_dim, rows = past + n;
  Matrix q(n, cols), out(n, cols), k(n_kv * rows, head_dim), v(n_kv * rows, head_dim);
  fill(q.view());
  fill(k.view());
  fill(v.view());
  std::vector<KvHead> heads;
  for (int64_t h = 0; h < n_kv; ++h) heads.push_back({k.view().row(h * rows), v.view().row(h * rows), rows});
  std::vector<int32_t> hi;
  for (int32_t i = 1; i <= n; ++i) hi.push_back(i);
  const double s = seconds_of([&] {
    b.attend_prefill(out.view(), q.view(), heads, n, nullptr, hi.data(), head_dim, {0.125f, 0});
  });
  const double pairs = static_cast<double>(n) * (static_cast<double>(past) + (static_cast<double>(n) + 1) / 2);
  const double flops = 4 * pairs * static_cast<double>(cols);
  std::printf("prefill  D %3ld  %2ld heads / %ld KV  past %5ld + %4ld   %8.3f ms  %6.1f GFLOP/s\n", head_dim,
              n_kv * group, n_kv, past, n, s * 1e3, flops / s * 1e-9);
}

void encoder(Backend& b, int64_t head_dim, int n_head, int64_t n, int64_t segment) {
  const int64_t cols = n_head * head_dim;
  Matrix qkv(n, 3 * cols), out(n, cols);
  fill(qkv.view());
  std::vector<int32_t> segments = {0};
  while (segments.back() < n) segments.push_back(static_cast<int32_t>(std::min(n, segments.back() + segment)));
  const Mat all = qkv.view();
  const double s = seconds_of([&] {
    b.attend_full(out.view(), all.cols_at(0, cols), all.cols_at(cols, cols), all.cols_at(2 * cols, cols), n_head,
                  segments, 0.125f);
  });
  const double flops = 4.0 * static_cast<double>(n * std::min(n, segment) * cols);
  std::printf("encoder  D %3ld  %2d heads  %5ld patches in %5ld   %8.3f ms  %6.1f GFLOP/s\n", head_dim, n_head, n,
              segment, s * 1e3, flops / s * 1e-9);
}

// All layers in turn, as a decoded token reads them: the working set is the whole cache.
void decode(Backend& b, KvType type, int64_t head_dim, int64_t group, int64_t n_kv, int64_t rows, int n_layer) {
  const int64_t cols = n_kv * group * head_dim;
  const int64_t row_bytes = type == KvType::F32    ? 4 * head_dim
                            : type == KvType::F16  ? 2 * head_dim
                            : type == KvType::Q8_0 ? head_dim / 32 * 34
                                                   : head_dim / 32 * 18;
  const auto side = static_cast<size_t>(rows * row_bytes);
  Buffer<char> cache(side * 2 * static_cast<size_t>(n_kv) * static_cast<size_t>(n_layer));
  std::fill_n(cache.data(), cache.size(), 0x11);
  Matrix q(1, cols), out(1, cols);
  fill(q.view());
  std::vector<std::vector<KvHead>> layers(static_cast<size_t>(n_layer));
  char* next = cache.data();
  for (auto& heads : layers) {
    for (int64_t h = 0; h < n_kv; ++h, next += 2 * side) heads.push_back({next, next + side, rows});
  }
  const double s = seconds_of([&] {
    for (const auto& heads : layers) b.attend_ragged(out.view(), q.view(), heads, type, head_dim, {0.125f, 0});
  });
  const char* names[] = {"f32", "f16", "q4_0", "", "", "", "", "", "q8_0"};
  std::printf("decode   D %3ld  %2ld heads / %ld KV  %5ld rows x %2d layers  %-4s  %8.3f ms  %5.1f GB/s\n", head_dim,
              n_kv * group, n_kv, rows, n_layer, names[static_cast<int>(type)], s * 1e3,
              static_cast<double>(cache.size()) / s * 1e-9);
}

void rows_of(Backend& b, int64_t rows, int64_t cols) {
  Matrix x(rows, cols), y(rows, cols), cs(rows, 64);
  const auto reset = [&] {
    fill(x.view());
    fill(y.view());
    // a true rotation: numbers neither grow nor fade to subnormals when it's repeated
    for (int64_t i = 0; i < rows * 64; ++i) cs.view().data[i] = i % 64 < 32 ? 0.6f : 0.8f;
  };
  const auto say = [&](const char* what, const std::function<void()>& call) {
    reset();
    const double s = seconds_of(call);
    std::printf("rows     %-10s %5ld x %5ld   %9.2f us  %6.2f elements/ns\n", what, rows, cols, s * 1e6,
                static_cast<double>(rows * cols) / s * 1e-9);
  };
  say("rms_norm", [&] { b.rms_norm(y.view(), x.view(), x.view().data, 1e-5f); });
  say("layer_norm", [&] { b.layer_norm(y.view(), x.view(), x.view().data, x.view().data, 1e-5f); });
  say("add", [&] { b.add(y.view(), x.view()); });
  say("rope", [&] { b.rope(y.view(), static_cast<int>(cols / 64), cs.view(), RopeStyle::half_split); });
  say("silu*up", [&] { b.gated_act(y.view(), x.view(), x.view(), Act::silu); });
  say("gelu_erf", [&] { b.gated_act(y.view(), x.view(), x.view(), Act::gelu_erf); });
  say("gelu_tanh", [&] { b.gated_act(y.view(), x.view(), x.view(), Act::gelu_tanh); });
}

void window(Backend& b, int64_t head_dim, int64_t group, int64_t n) {
  Matrix q(group * 32, head_dim), k(n, head_dim), probs(group * 32, n);
  fill(q.view());
  fill(k.view());
  std::vector<int64_t> visible;
  for (int64_t w = 0; w < 32; ++w) visible.push_back(n - 31 + w);
  const KvHead head{k.view().data, k.view().data, n};
  const double s =
      seconds_of([&] { b.window_attention(probs.view(), q.view(), head, KvType::F32, visible, 0.125f, 0); });
  std::vector<float> cosine(static_cast<size_t>(n));
  double norm2;
  const double t = seconds_of([&] { b.key_cosine(cosine.data(), &norm2, head, KvType::F32, head_dim); });
  std::printf("evict    D %3ld  group %ld x 32 queries, %5ld rows: window %8.3f ms, %6.1f GFLOP/s; cosine %6.3f ms\n",
              head_dim, group, n, s * 1e3, 2e-9 * static_cast<double>(group * 32 * n * head_dim) / s, t * 1e3);
}

}  // namespace

int main(int argc, char** argv) {
  const auto backend = make_cpu_backend(argc > 1 ? std::atoi(argv[1]) : 0, argc > 2 ? argv[2] : "");
  Backend& b = *backend;
  std::printf("%s\n", b.name().c_str());
  prefill(b, 64, 3, 3, 0, 512);
  prefill(b, 64, 3, 3, 7680, 512);
  prefill(b, 64, 3, 3, 0, 64);
  prefill(b, 128, 6, 2, 0, 512);
  prefill(b, 128, 6, 2, 7680, 512);
  prefill(b, 128, 4, 8, 0, 512);
  prefill(b, 128, 7, 4, 0, 512);
  encoder(b, 64, 12, 1024, 1024);
  encoder(b, 64, 16, 577, 577);
  encoder(b, 72, 16, 4096, 4096);
  encoder(b, 80, 16, 4096, 64);
  for (int64_t rows : {256, 2048, 8192}) decode(b, KvType::F16, 64, 3, 3, rows, 30);
  decode(b, KvType::F16, 128, 6, 2, 8192, 28);
  decode(b, KvType::F16, 128, 4, 8, 4096, 8);
  for (KvType type : {KvType::F32, KvType::Q8_0, KvType::Q4_0}) decode(b, type, 64, 3, 3, 8192, 30);
  rows_of(b, 1, 1536);
  rows_of(b, 512, 1536);
  window(b, 64, 3, 8192);
  window(b, 128, 6, 2048);
  return 0;
}
