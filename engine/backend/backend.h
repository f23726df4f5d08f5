// The operations that models, encoders and the KV cache are made of. One abstract class; a backend that lacks one
// doesn't compile. All matrices are row-major float32 views in the backend's memory unless said otherwise;
// T = rows (tokens), D = head_dim.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "engine/core/tensor.h"
#include "engine/gguf/gguf.h"

namespace foveal {

// A weight matrix [rows = outputs, cols = inputs] in the layout that the backend's kernels want. May be several GGUF
// tensors of different types stacked by rows (q|k|v, gate|up).
class Weight {
 public:
  virtual ~Weight() = default;
  int64_t rows = 0, cols = 0;
  size_t bytes = 0;  // memory held beyond the file's mapping
};
using WeightPtr = std::unique_ptr<const Weight>;

// Weights of layers that a backend's memory has no room for at once: one layer after the other is copied into one of
// two slots, while the layer in the other is computed. Layers are numbered without a gap.
class WeightStream {
 public:
  virtual ~WeightStream() = default;
  // A matrix of layer `il`, as Backend::load_matrix; the file's mapping must outlive it. Good for what is enqueued
  // between need(il) and need(il + 1).
  virtual WeightPtr load_matrix(int il, std::span<const TensorInfo* const> parts) = 0;
  // Before a pass over the layers, also after one that was broken off.
  virtual void begin() = 0;
  // Starts copying a layer while what was enqueued for the layer before it runs; in ascending order.
  virtual void start(int il) = 0;
  // What is enqueued from here on finds the layer, which was started, in its slot.
  virtual void need(int il) = 0;
};

// A recurring run of calls that a backend replays as one: see Backend::begin_step.
class StepGraph {
 public:
  virtual ~StepGraph() = default;
};

enum class Act { silu, gelu_tanh, gelu_erf, gelu_quick };
enum class RopeStyle { adjacent, half_split };  // pairs (2i, 2i+1) | (i, i + n_rot/2)

// Storage of one KV head's rows, slot-major: K and V are [len][D] of `type` (F16 or F32).
enum class KvType : int32_t { F32 = 0, F16 = 1, Q8_0 = 8, Q4_0 = 2 };
struct KvHead {
  void* k = nullptr;
  void* v = nullptr;
  int64_t len = 0;
};

struct AttendParams {
  float scale = 1.0f;    // multiplies q.k
  float softcap = 0.0f;  // > 0: c * tanh(s / c) before the softmax
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;  // "cpu (avx512, 2 threads)"

  // ---- memory
  // Where weights, hidden states and KV rows of this backend live. nullptr: the heap, which all may read and write.
  // Otherwise only the backend's own calls may follow those pointers; what is meant for the host is marked below.
  virtual Memory* memory() { return nullptr; }
  // Bytes that could still be allocated there; 0 for the heap.
  virtual uint64_t free_bytes() { return 0; }
  virtual void copy_in(void* to, const void* host, size_t bytes) { std::memcpy(to, host, bytes); }
  virtual void copy_out(void* host, const void* from, size_t bytes) { std::memcpy(host, from, bytes); }
  virtual void copy(void* to, const void* from, size_t bytes) { std::memmove(to, from, bytes); }  // inside it
  // Two slots of that many bytes each for layers that don't fit; nullptr: this backend has no use for them.
  virtual std::unique_ptr<WeightStream> make_weight_stream(size_t) { return nullptr; }

  // ---- a step of decode
  // The calls between begin_step and end_step may wait for end_step, or for the first copy_out, and then run as one
  // graph that is captured when the same calls come again and replayed while they do: KV rows may move, lengths and
  // copies' targets change. What comes back is what call by call would give. nullptr: nothing to gain.
  virtual std::unique_ptr<StepGraph> make_step() { return nullptr; }
  virtual void begin_step(StepGraph&) {}
  virtual void end_step() {}
  virtual void drop_step() noexcept {}  // what still waits isn't run

  // ---- weights
  // Stacks the tensors by rows; all have the same cols. The file's mapping must outlive the Weight.
  virtual WeightPtr load_matrix(std::span<const TensorInfo* const> parts) = 0;
  WeightPtr load_matrix(const TensorInfo& t) {
    const TensorInfo* p = &t;
    return load_matrix(std::span<const TensorInfo* const>(&p, 1));
  }
  // Whether this machine has products in bfloat16 (kernels/cpu/amx.h).
  virtual bool has_bf16() { return false; }
  // The same matrix for such products, `split`: of two bfloat16 for each factor, nearly as exact as
  // float32. Tensors of quantised types stay what they are.
  // unsupported where the machine has no instruction for it.
  virtual WeightPtr load_matrix_bf16(std::span<const TensorInfo* const> parts, bool split = false);
  // A table for embed_rows alone: stays in the mapping as the file has it, whose owner must outlive it.
  virtual WeightPtr load_table(const TensorInfo& t) = 0;
  // Any tensor as float32 (norms, biases, small tables), row-major.
  virtual Buffer<float> load_floats(const TensorInfo& t) = 0;

  // ---- rows
  // out[i] = W[ids[i]] as float32. ids are in range (checked by the caller).
  virtual void embed_rows(Mat out, const Weight& w, std::span<const int32_t> ids) = 0;
  // out = x W^T (+ bias[rows]); x [T, cols], out [T, rows]. out may not overlap x.
  virtual void matmul(Mat out, const Weight& w, ConstMat x, const float* bias = nullptr) = 0;
  // The same into host memory, `out` contiguous: logits.
  virtual void matmul_out(Mat out, const Weight& w, ConstMat x, const float* bias) { matmul(out, w, x, bias); }
  virtual void rms_norm(Mat out, ConstMat x, const float* w, float eps) = 0;  // out may be x
  virtual void layer_norm(Mat out, ConstMat x, const float* w, const float* b, float eps) = 0;
  virtual void add(Mat x, ConstMat y, const float* scale = nullptr) = 0;  // x += y (* scale[cols])
  virtual void scale(Mat x, float s) = 0;
  virtual void act(Mat x, Act kind) = 0;
  virtual void gated_act(Mat out, ConstMat gate, ConstMat up, Act kind) = 0;  // out = act(gate) * up; out may be gate
  // Rotates n_head heads of D = x.cols / n_head in place. cs [T, n_rot]: n_rot/2 cosines, then n_rot/2 sines a row.
  // Elements past n_rot pass through.
  virtual void rope(Mat x, int n_head, ConstMat cs, RopeStyle style) = 0;

  // ---- attention
  // One layer's prefill. q [T, n_head*D]; heads: n_head_kv F32 heads with rows [past | new], each of its own length
  // (past differs a head, the T new rows are the last of each). Query i sees, in head h, rows [lo[i], past_h + hi[i])
  // (lo counts from the head's first row and is nullptr when all rows are visible; hi[i] in 1..T).
  // lo and hi are in host memory. out [T, n_head*D]. Online softmax over fixed tiles of keys: a row's result doesn't
  // depend on T.
  virtual void attend_prefill(Mat out, ConstMat q, std::span<const KvHead> heads, int64_t n_new, const int32_t* lo,
                              const int32_t* hi, int64_t head_dim, const AttendParams& p) = 0;
  // One decoded token. q [1, n_head*D]; every head of its own length; each kept row is read once for the group of
  // query heads that share it.
  virtual void attend_ragged(Mat out, ConstMat q, std::span<const KvHead> heads, KvType type, int64_t head_dim,
                             const AttendParams& p) = 0;
  // Encoder attention: q, k, v [T, n_head*D]; every row sees the rows of its own segment
  // [segments[j], segments[j+1]), segments = {0, ..., T}.
  virtual void attend_full(Mat out, ConstMat q, ConstMat k, ConstMat v, int n_head, std::span<const int32_t> segments,
                           float scale) = 0;

  // ---- KV rows
  // Writes T rows of k and v [T, n_head_kv*D] as `type` at slots [slot_h, slot_h + T) of every head (heads[h].len).
  virtual void append_kv(std::span<const KvHead> heads, KvType type, ConstMat k, ConstMat v, int64_t head_dim) = 0;
  // dst[j] = src[slots[j]], converting type; slots ascending. dst may be src when types are equal (compaction).
  virtual void gather_slots(KvHead dst, KvType dst_type, KvHead src, KvType src_type, std::span<const int32_t> slots,
                            int64_t head_dim) = 0;

  // Every run of x [T, n*D] as long as the largest power of two in D times the normalised Walsh-Hadamard matrix, which
  // is its own inverse. out may be x.
  virtual void hadamard(Mat out, ConstMat x, int64_t head_dim);

  // ---- measurements for eviction (float32, one KV head; K [N][D] of `type`). Queries and results are in host memory.
  // fn(i) for every i < n, side by side where the backend has workers for it; fn may call the measurements of this
  // backend and nothing else of it. Of exceptions the one of the lowest i comes out.
  virtual void for_each(int64_t n, const std::function<void(int64_t)>& fn);
  // probs [g*W, N]: softmax(q K^T * scale) for the g query heads of this KV head and W window queries,
  // q [g*W, D] (query head major). Query w of the window sees rows [0, visible[w]).
  virtual void window_attention(Mat probs, ConstMat q, KvHead head, KvType type, std::span<const int64_t> visible,
                                float scale, float softcap) = 0;
  // cosine[i] = k_i . m with k_i = K_i / max(|K_i|, 1e-12), m = mean of k over all N rows; *mean_norm2 = |m|^2.
  virtual void key_cosine(float* cosine, double* mean_norm2, KvHead head, KvType type, int64_t head_dim) = 0;
  virtual void row_norm(float* norms, const void* rows, KvType type, int64_t n, int64_t head_dim) = 0;  // |row|_2

  // ---- pictures
  // im2col: pixels [3][H][W] planar, in host memory -> out [(H/P)*(W/P), 3*P*P], channel-major then rows then columns
  // of the patch.
  virtual void patch_rows(Mat out, const float* pixels, int64_t height, int64_t width, int64_t patch) = 0;
  // out row i = rows index[i*m .. i*m+m-1] of x side by side; out [n, m*x.cols].
  virtual void merge_rows(Mat out, ConstMat x, std::span<const int32_t> index, int64_t m) = 0;
  // out[i] = sum over j < m of weight[i*m + j] * x[index[i*m + j]], j ascending; `add`: to what out[i] holds. m >= 1;
  // index and weight are in host memory.
  virtual void weighted_rows(Mat out, ConstMat x, std::span<const int32_t> index, std::span<const float> weight,
                             int64_t m, bool add) = 0;
};

// The CPU backend. threads <= 0: the physical cores. isa: "" = the widest that CPU and OS allow (or FOVEAL_FORCE_ISA).
std::unique_ptr<Backend> make_cpu_backend(int threads, const std::string& isa = "");

}  // namespace foveal
