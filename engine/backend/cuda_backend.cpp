// The CUDA backend: weights stay GGUF blocks; a product of few rows streams them, one of many goes in tiles.
#include "engine/backend/cuda_backend.h"

#include <algorithm>
#include <utility>

#include "engine/backend/cpu_weight.h"
#include "engine/backend/cuda_weight_stream.h"
#include "engine/core/error.h"

namespace foveal {

static_assert(sizeof(KvHead) == sizeof(cuda::KvHead));
static_assert(static_cast<int>(Act::gelu_quick) == static_cast<int>(cuda::Act::gelu_quick) &&
              static_cast<int>(Act::gelu_erf) == static_cast<int>(cuda::Act::gelu_erf) &&
              static_cast<int>(Act::gelu_tanh) == static_cast<int>(cuda::Act::gelu_tanh));

namespace {

cuda::Rows rows(Mat m) {
  return {m.data, m.rows, m.cols, m.stride};
}
cuda::ConstRows rows(ConstMat m) {
  return {m.data, m.rows, m.cols, m.stride};
}
cuda::RowType type_of(KvType t) {
  return static_cast<cuda::RowType>(t);
}
cuda::KvHead head_of(const KvHead& h) {
  return {h.k, h.v, h.len};
}

}  // namespace

template <class Launch>
void CudaBackend::run(const char* operation, Launch&& launch) {
  leave_step();
  launch(device_->begin());
  device_->end(operation);
}

template <class Launch, class... Id>
void CudaBackend::run_in_step(const char* operation, Launch launch, const Id&... id) {
  if (step_) return step_->add(operation, std::move(launch), id...);
  launch(device_->begin());
  device_->end(operation);
}

void CudaBackend::leave_step() {
  if (CudaStep* step = std::exchange(step_, nullptr)) step->run_calls();
}

std::unique_ptr<StepGraph> CudaBackend::make_step() {
  return device_->captures() ? std::make_unique<CudaStep>(*device_) : nullptr;
}

void CudaBackend::begin_step(StepGraph& step) {
  step_ = &static_cast<CudaStep&>(step);
  step_->begin();
}

void CudaBackend::end_step() {
  if (CudaStep* step = std::exchange(step_, nullptr)) step->run();
}

void* CudaBackend::staged(Buffer<uint8_t>& room, size_t bytes) {
  if (room.size() < bytes) {
    leave_step();
    room = {};  // first, so that both never count
    room = Buffer<uint8_t>(std::max<size_t>(bytes + bytes / 4, 4096), device_.get());
  }
  return room.data();
}

template <class T>
T* CudaBackend::upload(Buffer<uint8_t>& room, std::span<const T> values) {
  leave_step();
  void* to = staged(room, std::max<size_t>(values.size_bytes(), 1));
  if (!values.empty()) device_->copy_in(to, values.data(), values.size_bytes());
  return static_cast<T*>(to);
}

const cuda::KvHead* CudaBackend::upload_heads(std::span<const KvHead> heads) {
  std::vector<cuda::KvHead> copy;
  for (const KvHead& h : heads) copy.push_back(head_of(h));
  if (step_)
    if (const void* there = step_->parameter(copy.data(), copy.size() * sizeof copy[0]))
      return static_cast<const cuda::KvHead*>(there);
  return upload<cuda::KvHead>(heads_, copy);
}

void CudaBackend::check_head(int64_t head_dim, KvType type) const {
  const bool blocks = type == KvType::Q8_0 || type == KvType::Q4_0;
  if (head_dim > cuda::max_head_dim || (blocks && head_dim % 32 != 0))
    fail(ErrorCode::unsupported, name(), ": found heads of ", head_dim, ", expected at most ", cuda::max_head_dim,
         blocks ? " and a multiple of 32" : "");
}

CudaBackend::CudaBackend(std::unique_ptr<CudaDevice> device) : device_(std::move(device)) {
  const auto host = std::make_unique<cuda::Codebooks>();
  cuda::fill_codebooks(host.get());
  codebooks_ = Buffer<uint8_t>(sizeof(cuda::Codebooks), device_.get());
  device_->copy_in(codebooks_.data(), host.get(), sizeof(cuda::Codebooks));
}

void CudaBackend::copy_in(void* to, const void* host, size_t bytes) {
  leave_step();
  if (bytes > 0) device_->copy_in(to, host, bytes);
}
void CudaBackend::copy_out(void* host, const void* from, size_t bytes) {
  end_step();
  if (bytes > 0) device_->copy_out(host, from, bytes);
}
void CudaBackend::copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  if (step_ && bytes % sizeof(float) == 0)  // the target may be another one in the next step
    if (const void* target = step_->parameter(&to, sizeof to)) {
      const auto* floats = static_cast<const float*>(from);
      const auto n = static_cast<int64_t>(bytes / sizeof(float));
      const auto* where = static_cast<float* const*>(target);
      return step_->add(
          "copy", [=](cuda::Stream s) { cuda::copy_to(where, floats, n, s); }, where, floats, n);
    }
  leave_step();
  device_->copy_inside(to, from, bytes);
}

// ---- weights

WeightPtr CudaBackend::load_matrix(std::span<const TensorInfo* const> parts) {
  auto w = std::make_unique<CudaWeight>();
  w->cols = parts[0]->cols();
  for (const TensorInfo* t : parts) {
    Buffer<uint8_t> block(static_cast<size_t>(t->bytes), device_.get());
    device_->copy_in(block.data(), t->data, static_cast<size_t>(t->bytes));
    w->parts.push_back(
        {block.data(), t->type, t->rows(), t->cols(), reinterpret_cast<const cuda::Codebooks*>(codebooks_.data())});
    w->rows += t->rows();
    w->bytes += block.bytes();
    w->blocks.push_back(std::move(block));
  }
  return w;
}

WeightPtr CudaBackend::load_table(const TensorInfo& t) {
  const TensorInfo* part = &t;
  return load_matrix(std::span<const TensorInfo* const>(&part, 1));
}

Buffer<float> CudaBackend::load_floats(const TensorInfo& t) {
  const Buffer<float> host = dequantize_tensor(t);
  Buffer<float> out(host.size(), device_.get());
  copy_in(out.data(), host.data(), host.bytes());
  return out;
}

std::unique_ptr<WeightStream> CudaBackend::make_weight_stream(size_t slot_bytes) {
  return std::make_unique<CudaWeightStream>(*device_, slot_bytes,
                                            reinterpret_cast<const cuda::Codebooks*>(codebooks_.data()));
}

void CudaBackend::embed_rows(Mat out, const Weight& w, std::span<const int32_t> ids) {
  const int32_t* at = upload(first_, ids);
  run("embed_rows",
      [&](cuda::Stream s) { cuda::embed_rows(rows(out), static_cast<const CudaWeight&>(w).parts[0], at, s); });
}

void CudaBackend::matmul(Mat out, const Weight& w, ConstMat x, const float* bias) {
  const bool few = x.rows <= cuda::max_matvec_rows;
  void* room = staged(inputs_, few ? cuda::matvec_room(x.rows, x.cols) : cuda::matmul_room(x.rows, x.cols));
  const std::vector<cuda::WeightPart>* parts = &static_cast<const CudaWeight&>(w).parts;
  const auto launch = [=](cuda::Stream s) {
    (few ? cuda::matvec_inputs : cuda::matmul_inputs)(room, rows(x), s);
    int64_t first = 0;
    for (const cuda::WeightPart& part : *parts) {
      const Mat columns = out.cols_at(first, part.rows);
      (few ? cuda::matvec : cuda::matmul)(rows(columns), part, rows(x), room, bias ? bias + first : nullptr, s);
      first += part.rows;
    }
  };
  run_in_step("matmul", launch, out, x, parts, room, bias);
}

void CudaBackend::matmul_out(Mat out, const Weight& w, ConstMat x, const float* bias) {
  const Mat there(static_cast<float*>(staged(result_, static_cast<size_t>(out.rows * out.cols) * 4)), out.rows,
                  out.cols);
  matmul(there, w, x, bias);
  copy_out(out.data, there.data, static_cast<size_t>(out.rows * out.cols) * 4);
}

// ---- rows

void CudaBackend::rms_norm(Mat out, ConstMat x, const float* w, float eps) {
  run_in_step(
      "rms_norm", [=](cuda::Stream s) { cuda::rms_norm(rows(out), rows(x), w, eps, s); }, out, x, w, eps);
}
void CudaBackend::layer_norm(Mat out, ConstMat x, const float* w, const float* b, float eps) {
  run("layer_norm", [&](cuda::Stream s) { cuda::layer_norm(rows(out), rows(x), w, b, eps, s); });
}
void CudaBackend::add(Mat x, ConstMat y, const float* scale) {
  run_in_step(
      "add", [=](cuda::Stream s) { cuda::add(rows(x), rows(y), scale, s); }, x, y, scale);
}
void CudaBackend::scale(Mat x, float factor) {
  run("scale", [&](cuda::Stream s) { cuda::scale(rows(x), factor, s); });
}
void CudaBackend::act(Mat x, Act kind) {
  run("act", [&](cuda::Stream s) { cuda::act(rows(x), static_cast<cuda::Act>(kind), s); });
}
void CudaBackend::gated_act(Mat out, ConstMat gate, ConstMat up, Act kind) {
  const auto launch = [=](cuda::Stream s) {
    cuda::gated_act(rows(out), rows(gate), rows(up), static_cast<cuda::Act>(kind), s);
  };
  run_in_step("gated_act", launch, out, gate, up, kind);
}
void CudaBackend::rope(Mat x, int n_head, ConstMat cs, RopeStyle style) {
  const bool halves = style == RopeStyle::half_split;
  const auto launch = [=](cuda::Stream s) { cuda::rope(rows(x), n_head, rows(cs), halves, s); };
  run_in_step("rope", launch, x, n_head, cs, halves);
}

// ---- attention

void CudaBackend::attend_prefill(Mat out, ConstMat q, std::span<const KvHead> heads, int64_t n_new, const int32_t* lo,
                                 const int32_t* hi, int64_t head_dim, const AttendParams& p) {
  check_head(head_dim, KvType::F32);
  const auto n = static_cast<size_t>(n_new);
  const cuda::KvHead* there = upload_heads(heads);
  const int32_t* first = lo ? upload(first_, std::span(lo, n)) : nullptr;
  const int32_t* last = upload(second_, std::span(hi, n));
  run("attend_prefill", [&](cuda::Stream s) {
    cuda::attend_prefill(rows(out), rows(q), there, static_cast<int64_t>(heads.size()), first, last, head_dim, p.scale,
                         p.softcap, s);
  });
}

void CudaBackend::attend_ragged(Mat out, ConstMat q, std::span<const KvHead> heads, KvType type, int64_t head_dim,
                                const AttendParams& p) {
  check_head(head_dim, type);
  const auto n_kv = static_cast<int64_t>(heads.size());
  int64_t longest = 1;
  for (const KvHead& h : heads) longest = std::max(longest, h.len);
  const int64_t plenty = std::max<int64_t>(1, 8 * int64_t{device_->multiprocessors()} / n_kv);
  int64_t splits = 1;  // a power of two: the same launch, and so the same graph, for many lengths
  while (splits * 64 < longest && splits < plenty) splits *= 2;
  splits = std::min(splits, plenty);
  const cuda::KvHead* there = upload_heads(heads);
  void* room = staged(inputs_, cuda::ragged_room(q.cols / head_dim, head_dim, splits));
  const auto launch = [=](cuda::Stream s) {
    cuda::attend_ragged(rows(out), rows(q), there, n_kv, type_of(type), head_dim, p.scale, p.softcap, splits, room, s);
  };
  run_in_step("attend_ragged", launch, out, q, there, n_kv, type, head_dim, p.scale, p.softcap, splits, room);
}

void CudaBackend::attend_full(Mat out, ConstMat q, ConstMat k, ConstMat v, int n_head,
                              std::span<const int32_t> segments, float scale) {
  check_head(q.cols / n_head, KvType::F32);
  const int32_t* bounds = upload(first_, segments);
  auto* lo = static_cast<int32_t*>(staged(second_, static_cast<size_t>(2 * q.rows) * sizeof(int32_t)));
  run("attend_full", [&](cuda::Stream s) {
    cuda::segment_bounds(lo, lo + q.rows, bounds, static_cast<int64_t>(segments.size()) - 1, s);
    cuda::attend_full(rows(out), rows(q), rows(k), rows(v), n_head, lo, lo + q.rows, scale, s);
  });
}

// ---- KV rows

void CudaBackend::append_kv(std::span<const KvHead> heads, KvType type, ConstMat k, ConstMat v, int64_t head_dim) {
  check_head(head_dim, type);
  const cuda::KvHead* there = upload_heads(heads);
  const auto n_kv = static_cast<int64_t>(heads.size());
  const auto launch = [=](cuda::Stream s) {
    cuda::append_kv(there, n_kv, type_of(type), rows(k), rows(v), head_dim, s);
  };
  run_in_step("append_kv", launch, there, n_kv, type, k, v, head_dim);
}

void CudaBackend::gather_slots(KvHead dst, KvType dst_type, KvHead src, KvType src_type, std::span<const int32_t> slots,
                               int64_t head_dim) {
  if (slots.empty()) return;
  const int32_t* there = upload(first_, slots);
  run("gather_slots", [&](cuda::Stream s) {
    cuda::gather_slots(head_of(dst), type_of(dst_type), head_of(src), type_of(src_type), there,
                       static_cast<int64_t>(slots.size()), head_dim, s);
  });
}

void CudaBackend::hadamard(Mat out, ConstMat x, int64_t head_dim) {
  const auto launch = [=](cuda::Stream s) { cuda::hadamard(rows(out), rows(x), head_dim, s); };
  run_in_step("hadamard", launch, out, x, head_dim);
}

// ---- measurements: queries come from the host, results go there

void CudaBackend::window_attention(Mat probs, ConstMat q, KvHead head, KvType type, std::span<const int64_t> visible,
                                   float scale, float softcap) {
  check_head(q.cols, type);
  if (probs.rows == 0 || head.len == 0) return;
  const auto n_q = static_cast<size_t>((q.rows - 1) * q.stride + q.cols);
  const ConstMat queries(upload(inputs_, std::span(q.data, n_q)), q.rows, q.cols, q.stride);
  const int64_t* seen = upload(first_, visible);
  const Mat there(static_cast<float*>(staged(result_, static_cast<size_t>(probs.rows * head.len) * 4)), probs.rows,
                  head.len);
  run("window_attention", [&](cuda::Stream s) {
    cuda::window_attention(rows(there), rows(queries), head_of(head), type_of(type), seen,
                           static_cast<int64_t>(visible.size()), scale, softcap, s);
  });
  const auto row = static_cast<size_t>(head.len) * sizeof(float);
  if (probs.stride == head.len) return copy_out(probs.data, there.data, row * static_cast<size_t>(probs.rows));
  for (int64_t i = 0; i < probs.rows; ++i) copy_out(probs.row(i), there.row(i), row);
}

void CudaBackend::key_cosine(float* cosine, double* mean_norm2, KvHead head, KvType type, int64_t head_dim) {
  check_head(head_dim, type);
  *mean_norm2 = 0;
  if (head.len == 0) return;
  void* room = staged(inputs_, cuda::key_cosine_room(head.len, head_dim));
  auto* norm = static_cast<double*>(staged(first_, sizeof(double)));
  auto* there = static_cast<float*>(staged(result_, static_cast<size_t>(head.len) * sizeof(float)));
  run("key_cosine",
      [&](cuda::Stream s) { cuda::key_cosine(there, norm, head_of(head), type_of(type), head_dim, room, s); });
  copy_out(mean_norm2, norm, sizeof(double));
  copy_out(cosine, there, static_cast<size_t>(head.len) * sizeof(float));
}

void CudaBackend::row_norm(float* norms, const void* values, KvType type, int64_t n, int64_t head_dim) {
  if (n == 0) return;
  auto* there = static_cast<float*>(staged(result_, static_cast<size_t>(n) * sizeof(float)));
  run("row_norm", [&](cuda::Stream s) { cuda::row_norm(there, values, type_of(type), n, head_dim, s); });
  copy_out(norms, there, static_cast<size_t>(n) * sizeof(float));
}

// ---- pictures

void CudaBackend::patch_rows(Mat out, const float* pixels, int64_t height, int64_t width, int64_t patch) {
  const float* there = upload(inputs_, std::span(pixels, static_cast<size_t>(3 * height * width)));
  run("patch_rows", [&](cuda::Stream s) { cuda::patch_rows(rows(out), there, height, width, patch, s); });
}

void CudaBackend::merge_rows(Mat out, ConstMat x, std::span<const int32_t> index, int64_t m) {
  const int32_t* there = upload(first_, index);
  run("merge_rows", [&](cuda::Stream s) { cuda::merge_rows(rows(out), rows(x), there, m, s); });
}

void CudaBackend::weighted_rows(Mat out, ConstMat x, std::span<const int32_t> index, std::span<const float> weight,
                                int64_t m, bool add) {
  const int32_t* from = upload(first_, index);
  const float* by = upload(second_, weight);
  run("weighted_rows", [&](cuda::Stream s) { cuda::weighted_rows(rows(out), rows(x), from, by, m, add, s); });
}

GpuDevices cuda_devices() {
  return find_cuda_devices();
}

std::unique_ptr<Backend> make_cuda_backend(int index) {
  return std::make_unique<CudaBackend>(open_cuda_device(index));
}

}  // namespace foveal
