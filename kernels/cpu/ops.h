// The CPU kernels other than matrix products: one table of plain functions per instruction set. A function works on
// one row or one block, never threads, allocates or throws; the engine's CPU backend cuts the work into such pieces.
#pragma once

#include <cstdint>

#include "kernels/cpu/dispatch.h"

namespace foveal {

enum class CpuAct : int32_t { silu, gelu_tanh, gelu_erf, gelu_quick };

// How a row of head_dim numbers is stored: ids as in ggml; Q8_0 and Q4_0 are blocks of 32 with an f16 scale.
enum class RowType : int32_t { F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8 };

// Bytes of n elements (n a multiple of 32 for the block types).
static constexpr int64_t row_type_bytes(RowType type, int64_t n) {
  return type == RowType::F32    ? 4 * n
         : type == RowType::F16  ? 2 * n
         : type == RowType::Q8_0 ? n / 32 * 34
                                 : n / 32 * 18;
}

constexpr int64_t key_tile = 64;      // keys of one step of the online softmax, from row 0 on
constexpr int64_t decode_rows = 256;  // rows of one piece of a head in decode, from row 0 on

// A block of query tokens against one KV head of float32 rows. The query heads that share the KV head lie side by side:
// token t, head j at q + t*q_stride + j*head_dim (out likewise, with out_stride).
struct AttendBlock {
  const float* q = nullptr;
  float* out = nullptr;
  int64_t q_stride = 0, out_stride = 0;
  int64_t n_tokens = 0, group = 1, head_dim = 0;
  const float* k = nullptr;  // row r at k + r*k_stride
  const float* v = nullptr;
  int64_t k_stride = 0, v_stride = 0, n_keys = 0;
  // Token t sees rows [lo ? lo[t] : 0, hi ? past + hi[t] : n_keys). A token that sees nothing gets zeros.
  const int32_t* lo = nullptr;
  const int32_t* hi = nullptr;
  int64_t past = 0;
  float scale = 1, softcap = 0;
  float* scratch = nullptr;  // attend_scratch(...) floats, 64-byte aligned
};

// Up to decode_rows rows of one KV head against the `group` queries of one token, q [group][head_dim] float32.
struct DecodeChunk {
  const float* q = nullptr;
  const void* k = nullptr;  // [n_rows][head_dim] of `type`
  const void* v = nullptr;
  RowType type = RowType::F16;
  int64_t group = 1, head_dim = 0, n_rows = 0;
  float scale = 1, softcap = 0;
  float* part = nullptr;     // result, group * part_stride(head_dim): per head max, sum, then head_dim of sum p*v
  float* scratch = nullptr;  // decode_scratch(...) floats, 64-byte aligned
  // Only for speed. What the caller computes after this piece, of the same type, asked of memory towards the end of
  // this one; and whether this piece was asked for in that way.
  const void* next_k = nullptr;
  const void* next_v = nullptr;
  int64_t next_rows = 0;
  bool asked = false;
};
static constexpr int64_t part_stride(int64_t head_dim) {
  return (head_dim + 2 + 15) / 16 * 16;
}

struct CpuOps {
  // ---- one row of n elements
  void (*rms_norm)(float* out, const float* x, const float* w, int64_t n, float eps);
  void (*layer_norm)(float* out, const float* x, const float* w, const float* b, int64_t n,
                     float eps);                                         // b may be null
  void (*add)(float* x, const float* y, const float* scale, int64_t n);  // x += y (* scale, when not null)
  void (*scale)(float* x, float s, int64_t n);
  void (*act)(float* x, int64_t n, CpuAct kind);
  void (*gated_act)(float* out, const float* gate, const float* up, int64_t n, CpuAct kind);
  // cs: n_rot/2 cosines, then n_rot/2 sines. half_split: pairs (i, i + n_rot/2), else (2i, 2i + 1).
  void (*rope)(float* x, int64_t n_head, int64_t head_dim, const float* cs, int64_t n_rot, bool half_split);

  // ---- stored rows; n = elements
  void (*store_rows)(void* dst, RowType type, const float* src, int64_t n);
  void (*load_rows)(float* dst, const void* src, RowType type, int64_t n);

  // ---- attention
  int64_t (*attend_tokens)(int64_t group);                     // tokens a block should hold
  int64_t (*attend_scratch)(int64_t group, int64_t head_dim);  // floats
  void (*attend_block)(const AttendBlock& a);                  // n_tokens <= attend_tokens(group)
  int64_t (*decode_scratch)(int64_t group, int64_t head_dim);  // floats
  void (*decode_chunk)(const DecodeChunk& c);
  // out [group][head_dim] = merge of n_parts parts, in order, part i at parts + i*group*part_stride(head_dim).
  void (*decode_merge)(float* out, const float* parts, int64_t n_parts, int64_t group, int64_t head_dim);

  // ---- measurements on float32 rows [n][head_dim]
  // scores[i*score_stride + r] = q_i . row_r, query i at q + i*q_stride.
  void (*score_rows)(float* scores, int64_t score_stride, const float* q, int64_t q_stride, int64_t n_q,
                     const float* rows, int64_t n, int64_t head_dim);
  void (*softmax)(float* x, int64_t n, float scale, float softcap);  // x = softmax(cap(scale * x))
  void (*row_norm)(float* norms, const float* rows, int64_t n, int64_t head_dim);
  void (*unit_sum)(double* sum, const float* rows, int64_t n, int64_t head_dim);  // sum += row / max(|row|, 1e-12)
  void (*cosine)(float* cosine, const double* m, const float* rows, int64_t n, int64_t head_dim);
};

// The table of an available instruction set.
const CpuOps& cpu_ops(Isa isa);

}  // namespace foveal
