// A GPU for tests of everything above the kernels: the CPU's kernels on guarded memory. Defines what
// engine/backend/devices.h declares, in place of the library's answer; include it in one file of a program.
#pragma once

#include "engine/backend/devices.h"
#include "tests/runtime/guarded_memory.h"

namespace guarded {

class GuardedStream;
struct GuardedWeight final : foveal::Weight {
  foveal::WeightPtr inner;
  foveal::Buffer<uint8_t> block;  // takes the room that it would take
  const GuardedStream* stream = nullptr;
  int layer = 0;  // of the stream
};

inline long layers_streamed = 0;

// Refuses whatever isn't in a slot when it is used.
class GuardedStream final : public foveal::WeightStream {
 public:
  GuardedStream(foveal::Backend& cpu, Arena& arena, size_t slot_bytes)
      : cpu_(cpu), slots_{foveal::Buffer<uint8_t>(slot_bytes, &arena), foveal::Buffer<uint8_t>(slot_bytes, &arena)} {}
  foveal::WeightPtr load_matrix(int il, std::span<const foveal::TensorInfo* const> parts) override {
    auto w = std::make_unique<GuardedWeight>();
    w->inner = cpu_.load_matrix(parts);
    w->rows = w->inner->rows;
    w->cols = w->inner->cols;
    w->stream = this;
    w->layer = il;
    for (const foveal::TensorInfo* t : parts) filled_[il] += static_cast<size_t>(t->bytes);
    if (filled_[il] > slots_[0].size()) wrong("a layer larger than its slot");
    return w;
  }
  void begin() override { now_ = started_[0] = started_[1] = -1; }
  void start(int il) override {
    if (now_ >= 0 && il != now_ + 1) wrong("start out of order");
    started_[il % 2] = il;
    ++layers_streamed;
  }
  void need(int il) override {
    if (started_[il % 2] != il) wrong("need of a layer that wasn't started");
    now_ = il;
  }
  void check(int il) const {
    if (il != now_) wrong("a layer that isn't there");
  }

 private:
  [[noreturn]] static void wrong(const char* what) { foveal::fail(foveal::ErrorCode::device, "stream: ", what); }
  foveal::Backend& cpu_;
  foveal::Buffer<uint8_t> slots_[2];
  std::map<int, size_t> filled_;
  int now_ = -1, started_[2] = {-1, -1};
};

class GuardedBackend final : public foveal::Backend {
 public:
  GuardedBackend() : cpu_(foveal::make_cpu_backend(1)), arena_(settings.total) {}
  std::string name() const override { return "guarded:0"; }
  foveal::Memory* memory() override { return &arena_; }
  uint64_t free_bytes() override { return settings.total - std::min(settings.used, settings.total); }
  void copy_in(void* to, const void* host, size_t n) override {
    if (!arena_.holds(to) || arena_.holds(host)) foveal::fail(foveal::ErrorCode::device, "copy_in: wrong side");
    count_copy();
    ++settings.copies_in;
    settings.largest_in = std::max(settings.largest_in, static_cast<long>(n));
    with([&] { std::memcpy(to, host, n); });
  }
  void copy_out(void* host, const void* from, size_t n) override {
    if (!arena_.holds(from) || arena_.holds(host)) foveal::fail(foveal::ErrorCode::device, "copy_out: wrong side");
    count_copy();
    with([&] { std::memcpy(host, from, n); });
  }
  void copy(void* to, const void* from, size_t n) override {
    if (!arena_.holds(to) || !arena_.holds(from)) foveal::fail(foveal::ErrorCode::device, "copy: wrong side");
    with([&] { std::memmove(to, from, n); });
  }

  foveal::WeightPtr load_matrix(std::span<const foveal::TensorInfo* const> parts) override {
    return guard(cpu_->load_matrix(parts));
  }
  bool has_bf16() override { return cpu_->has_bf16(); }
  foveal::WeightPtr load_matrix_bf16(std::span<const foveal::TensorInfo* const> parts, bool split) override {
    return guard(cpu_->load_matrix_bf16(parts, split));
  }
  foveal::WeightPtr guard(foveal::WeightPtr inner) {
    auto w = std::make_unique<GuardedWeight>();
    w->inner = std::move(inner);
    w->rows = w->inner->rows;
    w->cols = w->inner->cols;
    w->bytes = w->inner->bytes;
    w->block = foveal::Buffer<uint8_t>(w->bytes, &arena_);
    return w;
  }
  foveal::WeightPtr load_table(const foveal::TensorInfo& t) override { return cpu_->load_table(t); }
  foveal::Buffer<float> load_floats(const foveal::TensorInfo& t) override {
    const foveal::Buffer<float> host = cpu_->load_floats(t);
    foveal::Buffer<float> out(host.size(), &arena_);
    copy_in(out.data(), host.data(), host.bytes());
    return out;
  }

  void embed_rows(foveal::Mat out, const foveal::Weight& w, std::span<const int32_t> ids) override {
    with([&] { cpu_->embed_rows(out, w, ids); });
  }
  std::unique_ptr<foveal::WeightStream> make_weight_stream(size_t slot_bytes) override {
    return std::make_unique<GuardedStream>(*cpu_, arena_, slot_bytes);
  }
  void matmul(foveal::Mat out, const foveal::Weight& w, foveal::ConstMat x, const float* bias) override {
    const auto& weight = static_cast<const GuardedWeight&>(w);
    if (weight.stream) weight.stream->check(weight.layer);
    with([&] { cpu_->matmul(out, *weight.inner, x, bias); });
  }
  void rms_norm(foveal::Mat out, foveal::ConstMat x, const float* w, float eps) override {
    with([&] { cpu_->rms_norm(out, x, w, eps); });
  }
  void layer_norm(foveal::Mat out, foveal::ConstMat x, const float* w, const float* b, float eps) override {
    with([&] { cpu_->layer_norm(out, x, w, b, eps); });
  }
  void add(foveal::Mat x, foveal::ConstMat y, const float* scale) override {
    with([&] { cpu_->add(x, y, scale); });
  }
  void scale(foveal::Mat x, float s) override {
    with([&] { cpu_->scale(x, s); });
  }
  void act(foveal::Mat x, foveal::Act kind) override {
    with([&] { cpu_->act(x, kind); });
  }
  void gated_act(foveal::Mat out, foveal::ConstMat gate, foveal::ConstMat up, foveal::Act kind) override {
    with([&] { cpu_->gated_act(out, gate, up, kind); });
  }
  void rope(foveal::Mat x, int n_head, foveal::ConstMat cs, foveal::RopeStyle style) override {
    with([&] { cpu_->rope(x, n_head, cs, style); });
  }
  void attend_prefill(foveal::Mat out, foveal::ConstMat q, std::span<const foveal::KvHead> heads, int64_t n_new,
                      const int32_t* lo, const int32_t* hi, int64_t head_dim, const foveal::AttendParams& p) override {
    with([&] { cpu_->attend_prefill(out, q, heads, n_new, lo, hi, head_dim, p); });
  }
  void attend_ragged(foveal::Mat out, foveal::ConstMat q, std::span<const foveal::KvHead> heads, foveal::KvType type,
                     int64_t head_dim, const foveal::AttendParams& p) override {
    with([&] { cpu_->attend_ragged(out, q, heads, type, head_dim, p); });
  }
  void attend_full(foveal::Mat out, foveal::ConstMat q, foveal::ConstMat k, foveal::ConstMat v, int n_head,
                   std::span<const int32_t> segments, float scale) override {
    with([&] { cpu_->attend_full(out, q, k, v, n_head, segments, scale); });
  }
  void append_kv(std::span<const foveal::KvHead> heads, foveal::KvType type, foveal::ConstMat k, foveal::ConstMat v,
                 int64_t head_dim) override {
    with([&] { cpu_->append_kv(heads, type, k, v, head_dim); });
  }
  void gather_slots(foveal::KvHead dst, foveal::KvType dst_type, foveal::KvHead src, foveal::KvType src_type,
                    std::span<const int32_t> slots, int64_t head_dim) override {
    with([&] { cpu_->gather_slots(dst, dst_type, src, src_type, slots, head_dim); });
  }
  void hadamard(foveal::Mat out, foveal::ConstMat x, int64_t head_dim) override {
    if (!arena_.holds(out.data) || !arena_.holds(x.data))
      foveal::fail(foveal::ErrorCode::device, "hadamard: wrong side");
    with([&] { cpu_->hadamard(out, x, head_dim); });
  }
  void window_attention(foveal::Mat probs, foveal::ConstMat q, foveal::KvHead head, foveal::KvType type,
                        std::span<const int64_t> visible, float scale, float softcap) override {
    if (arena_.holds(probs.data) || arena_.holds(q.data))
      foveal::fail(foveal::ErrorCode::device, "window_attention: wrong side");
    with([&] { cpu_->window_attention(probs, q, head, type, visible, scale, softcap); });
  }
  void key_cosine(float* cosine, double* mean_norm2, foveal::KvHead head, foveal::KvType type,
                  int64_t head_dim) override {
    with([&] { cpu_->key_cosine(cosine, mean_norm2, head, type, head_dim); });
  }
  void row_norm(float* norms, const void* rows, foveal::KvType type, int64_t n, int64_t head_dim) override {
    with([&] { cpu_->row_norm(norms, rows, type, n, head_dim); });
  }
  void patch_rows(foveal::Mat out, const float* pixels, int64_t height, int64_t width, int64_t patch) override {
    if (arena_.holds(pixels)) foveal::fail(foveal::ErrorCode::device, "patch_rows: wrong side");
    with([&] { cpu_->patch_rows(out, pixels, height, width, patch); });
  }
  void merge_rows(foveal::Mat out, foveal::ConstMat x, std::span<const int32_t> index, int64_t m) override {
    with([&] { cpu_->merge_rows(out, x, index, m); });
  }
  void weighted_rows(foveal::Mat out, foveal::ConstMat x, std::span<const int32_t> index, std::span<const float> weight,
                     int64_t m, bool add) override {
    with([&] { cpu_->weighted_rows(out, x, index, weight, m, add); });
  }

 private:
  static void count_copy() {
    if (settings.copies++ == settings.fail_copy_at) foveal::fail(foveal::ErrorCode::device, "guarded gpu: no copy");
  }
  template <class Fn>
  void with(Fn&& fn) {
    arena_.open();
    try {
      fn();
    } catch (...) {
      arena_.close();
      throw;
    }
    arena_.close();
  }
  std::unique_ptr<foveal::Backend> cpu_;
  Arena arena_;
};

}  // namespace guarded

namespace foveal {

GpuDevices cuda_devices() {
  if (!guarded::settings.none_because.empty()) return {{}, guarded::settings.none_because};
  return {{{0, "Guarded", "0.0", guarded::settings.total, guarded::settings.total - guarded::settings.used}}, ""};
}

std::unique_ptr<Backend> make_cuda_backend(int) {
  return std::make_unique<guarded::GuardedBackend>();
}

}  // namespace foveal
