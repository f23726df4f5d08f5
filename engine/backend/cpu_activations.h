// Activations of a matrix product, packed by all threads as the kernels read them, into a scratch that is kept.
#pragma once

#include "engine/backend/cpu_weight.h"

namespace foveal {

// As the integer and the float kernels want them, whichever the weights need (integers not where tiles take them).
void pack_activations(ThreadPool& pool, const MatmulKernels& kernels, const CpuWeight& w, bool tiles, ConstMat x,
                      MatmulScratch& s);
// The block of `count` tokens, `left` of which exist at most, that begins with token t, from input k0 on.
QuantTokens block_of(MatmulScratch& s, int64_t t, int count, int64_t left, int64_t cols, int64_t k0 = 0);

// As the integer tiles want them, and where the block of tokens that begins with t lies, from input k0 on.
void pack_tiles(ThreadPool& pool, const AmxKernels& amx, ConstMat x, MatmulScratch& s);
TileTokens tiles_of(const MatmulScratch& s, int64_t t, int64_t left, int64_t cols, int64_t k0);

// In bfloat16, rows of bf16_cols, for `split` all blocks of high parts, then all of low ones; without tiles by the
// specification, which only tests ask for.
void pack_pairs(ThreadPool& pool, const AmxKernels* amx, bool split, ConstMat x, MatmulScratch& s);
int64_t bf16_cols(int64_t cols);

}  // namespace foveal
