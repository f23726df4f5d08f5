// The scalar table and its parts: the specification that every other instruction set is tested against.
#pragma once

#include "kernels/cpu/ops.h"

namespace foveal::scalar {

extern const CpuOps ops;

void rms_norm(float* out, const float* x, const float* w, int64_t n, float eps);
void layer_norm(float* out, const float* x, const float* w, const float* b, int64_t n, float eps);
void add(float* x, const float* y, const float* scale, int64_t n);
void scale(float* x, float s, int64_t n);
void act(float* x, int64_t n, CpuAct kind);
void gated_act(float* out, const float* gate, const float* up, int64_t n, CpuAct kind);
void rope(float* x, int64_t n_head, int64_t head_dim, const float* cs, int64_t n_rot, bool half_split);

void store_rows(void* dst, RowType type, const float* src, int64_t n);
void load_rows(float* dst, const void* src, RowType type, int64_t n);

int64_t attend_tokens(int64_t group);
int64_t attend_scratch(int64_t group, int64_t head_dim);
void attend_block(const AttendBlock& a);
int64_t decode_scratch(int64_t group, int64_t head_dim);
void decode_chunk(const DecodeChunk& c);
void decode_merge(float* out, const float* parts, int64_t n_parts, int64_t group, int64_t head_dim);

void score_rows(float* scores, int64_t score_stride, const float* q, int64_t q_stride, int64_t n_q, const float* rows,
                int64_t n, int64_t head_dim);
void softmax(float* x, int64_t n, float scale, float softcap);
void row_norm(float* norms, const float* rows, int64_t n, int64_t head_dim);
void unit_sum(double* sum, const float* rows, int64_t n, int64_t head_dim);
void cosine(float* cosine, const double* m, const float* rows, int64_t n, int64_t head_dim);

}  // namespace foveal::scalar
