// The CUDA kernels' launchers in plain C++: every pointer is to device memory unless said otherwise, every launcher
// only enqueues work on the stream (it may be captured in a graph), and errors are left to cudaGetLastError of the
// caller.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/quant/types.h"

#ifdef __CUDACC__
#define FOVEAL_HOST_DEVICE __host__ __device__
#else
#define FOVEAL_HOST_DEVICE
#endif

struct CUstream_st;  // cudaStream_t is a pointer to it

namespace foveal::cuda {

using Stream = CUstream_st*;

// Row-major float32 matrices; rows are contiguous, `stride` elements apart.
struct Rows {
  float* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;
};
struct ConstRows {
  const float* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;
  ConstRows() = default;
  ConstRows(const float* d, int64_t r, int64_t c, int64_t s) : data(d), rows(r), cols(c), stride(s) {}
  ConstRows(const Rows& o) : data(o.data), rows(o.rows), cols(o.cols), stride(o.stride) {}
};

enum class Act : int32_t { silu, gelu_tanh, gelu_erf, gelu_quick };
enum class RowType : int32_t { F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8 };  // ids as in ggml; blocks of 32 for Q4_0, Q8_0

// Bytes of n elements (n a multiple of 32 for the block types).
FOVEAL_HOST_DEVICE constexpr int64_t row_bytes(RowType type, int64_t n) {
  return type == RowType::F32    ? 4 * n
         : type == RowType::F16  ? 2 * n
         : type == RowType::Q8_0 ? n / 32 * 34
                                 : n / 32 * 18;
}

// One KV head: k and v are [len][head_dim], slot-major, of one RowType. Bases 16-byte aligned.
struct KvHead {
  void* k = nullptr;
  void* v = nullptr;
  int64_t len = 0;
};

// The codebooks of the IQ types, needed in device memory by every kernel that reads weights: fill one on the host with
// fill_codebooks, copy it to the device once, name it in each WeightPart.
struct Codebooks {
  uint64_t iq2_xxs[256], iq2_xs[512], iq2_s[1024], iq1_s[2048];
  uint32_t iq3_xxs[256], iq3_s[512];
};
void fill_codebooks(Codebooks* host);

// Rows of one GGUF tensor exactly as in the file, base 16-byte aligned; cols is a multiple of the type's block.
// A matrix stacked of several tensors is several parts, each with its columns of `out`.
struct WeightPart {
  const void* data = nullptr;
  TensorType type = TensorType::F32;
  int64_t rows = 0, cols = 0;            // outputs, inputs
  const Codebooks* codebooks = nullptr;  // device memory; may be null for types other than IQ1, IQ2, IQ3
};

// ---- weights
// out[i] = W[ids[i]]; out [n, cols].
void embed_rows(Rows out, const WeightPart& w, const int32_t* ids, Stream stream);

// A matrix product in two steps: the inputs are prepared once in `room` (16-byte aligned, as many bytes as the size
// function says), then each part of the weight multiplies them.
//   few rows, T in 1..max_matvec_rows: weights streamed once; blocks of 32 inputs in 8 bits, integer dots (quantised
//     weights), float32 inputs (F32, F16, BF16 weights)
//   many rows, any T: fp16 tiles on tensor cores, float32 sums; rows scaled by a power of two into fp16's range
// In both, a row's result doesn't depend on T or on the other rows. The two differ by their roundings.
constexpr int64_t max_matvec_rows = 8;
size_t matvec_room(int64_t rows, int64_t cols);  // bytes
void matvec_inputs(void* room, ConstRows x, Stream stream);
void matvec(Rows out, const WeightPart& w, ConstRows x, const void* room, const float* bias, Stream stream);
size_t matmul_room(int64_t rows, int64_t cols);  // bytes
void matmul_inputs(void* room, ConstRows x, Stream stream);
void matmul(Rows out, const WeightPart& w, ConstRows x, const void* room, const float* bias, Stream stream);

// ---- rows
void rms_norm(Rows out, ConstRows x, const float* w, float eps, Stream stream);                    // out may be x
void layer_norm(Rows out, ConstRows x, const float* w, const float* b, float eps, Stream stream);  // b may be null
void add(Rows x, ConstRows y, const float* scale, Stream stream);                                  // scale [cols]
void scale(Rows x, float s, Stream stream);
void act(Rows x, Act kind, Stream stream);
void gated_act(Rows out, ConstRows gate, ConstRows up, Act kind, Stream stream);  // out may be gate
// cs [T, n_rot]: n_rot/2 cosines, then n_rot/2 sines a row; half_split: pairs (i, i + n_rot/2), else (2i, 2i + 1).
void rope(Rows x, int n_head, ConstRows cs, bool half_split, Stream stream);

// ---- attention
constexpr int64_t max_head_dim = 256;
// One layer's prefill. q, out [T, n_head*D]; heads [n_kv] of F32 rows, lengths with the T new rows. Query i sees rows
// [lo ? lo[i] : 0, len - T + hi[i]) of each head; lo, hi [T]. A row's result doesn't depend on T.
void attend_prefill(Rows out, ConstRows q, const KvHead* heads, int64_t n_kv, const int32_t* lo, const int32_t* hi,
                    int64_t head_dim, float scale, float softcap, Stream stream);
// Encoder attention: q, k, v, out [T, n_head*D]; row i sees rows [lo[i], hi[i]): its own segment, or everything when lo
// and hi are null. segment_bounds makes them: segments [n + 1] = {0, ..., T}.
void segment_bounds(int32_t* lo, int32_t* hi, const int32_t* segments, int64_t n, Stream stream);
void attend_full(Rows out, ConstRows q, ConstRows k, ConstRows v, int n_head, const int32_t* lo, const int32_t* hi,
                 float scale, Stream stream);
// One decoded token. q, out [1, n_head*D]. Lengths are read from device memory: the launch is the same for all lengths,
// so a captured graph replays. `splits` blocks a head share its rows (8 blocks an SM over all heads is plenty; a block
// takes 64 rows or more); room: ragged_room bytes, 16-byte aligned.
size_t ragged_room(int64_t n_head, int64_t head_dim, int64_t splits);
void attend_ragged(Rows out, ConstRows q, const KvHead* heads, int64_t n_kv, RowType type, int64_t head_dim,
                   float scale, float softcap, int64_t splits, void* room, Stream stream);

// ---- KV rows
// k, v [T, n_kv*D] to slots [len_h, len_h + T) of every head, converting to `type`.
void append_kv(const KvHead* heads, int64_t n_kv, RowType type, ConstRows k, ConstRows v, int64_t head_dim,
               Stream stream);
void advance_lengths(KvHead* heads, int64_t n_heads, int64_t by, Stream stream);  // len += by
// n floats to the address that `to` holds, which may change between replays of a captured launch.
void copy_to(float* const* to, const float* from, int64_t n, Stream stream);
// dst[j] = src[slots[j]] for k and v; slots [n] ascending. dst may be src when the types are equal.
void gather_slots(KvHead dst, RowType dst_type, KvHead src, RowType src_type, const int32_t* slots, int64_t n,
                  int64_t head_dim, Stream stream);
// out = x [T, n*D] (out may be x): runs as long as the largest power of two in head_dim, each by the normalised
// Walsh-Hadamard matrix, which is its own inverse (how rows of the quantised types are stored).
void hadamard(Rows out, ConstRows x, int64_t head_dim, Stream stream);

// ---- measurements for eviction, float32, one KV head (only k and len are read)
// probs [g*W, len] = softmax(q K^T * scale), q [g*W, D], query head major; query w sees rows [0, visible[w]).
void window_attention(Rows probs, ConstRows q, KvHead head, RowType type, const int64_t* visible, int64_t n_visible,
                      float scale, float softcap, Stream stream);
size_t key_cosine_room(int64_t len, int64_t head_dim);  // bytes
// cosine [len], mean_norm2: one double in device memory.
void key_cosine(float* cosine, double* mean_norm2, KvHead head, RowType type, int64_t head_dim, void* room,
                Stream stream);
void row_norm(float* norms, const void* rows, RowType type, int64_t n, int64_t head_dim, Stream stream);

// ---- pictures
void patch_rows(Rows out, const float* pixels, int64_t height, int64_t width, int64_t patch, Stream stream);
void merge_rows(Rows out, ConstRows x, const int32_t* index, int64_t m, Stream stream);  // index [out.rows * m]
// out[i] = sum over j < m of weight[i*m + j] * x[index[i*m + j]] (+ out[i] before, with `add`), j ascending.
void weighted_rows(Rows out, ConstRows x, const int32_t* index, const float* weight, int64_t m, bool add,
                   Stream stream);

}  // namespace foveal::cuda
