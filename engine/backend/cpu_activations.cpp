// Activations of a matrix product, packed by all threads as the kernels read them.
#include "engine/backend/cpu_activations.h"

#include <algorithm>

namespace foveal {

QuantTokens block_of(MatmulScratch& s, int64_t t, int count, int64_t left, int64_t cols, int64_t k0) {
  const int64_t at32 = (t * cols + k0 * count) / 32, at16 = 2 * at32;
  return {s.quads.data() + t * cols + k0 * count,
          s.scales.data() + at32,
          {s.sums[0].data() + at32, s.sums[1].data() + at16},
          {s.fsums[0].data() + at32, s.fsums[1].data() + at16},
          count,
          static_cast<int>(std::min<int64_t>(count, left))};
}

namespace {

// The last block's tokens that don't exist.
void clear_block(const QuantTokens& x, int64_t cols) {
  const auto n = static_cast<size_t>(x.count * cols);
  std::fill_n(x.quads, n, 0);
  std::fill_n(x.scales, n / 32, 0.0f);
  for (int over16 = 0; over16 < 2; ++over16) {
    std::fill_n(x.sums[over16], n / (over16 ? 16 : 32), 0);
    std::fill_n(x.fsums[over16], n / (over16 ? 16 : 32), 0.0f);
  }
}

void reserve_quantised(MatmulScratch& s, size_t total) {
  if (s.quads.size() >= total) return;
  s.quads = Buffer<int8_t>(total);
  s.scales = Buffer<float>(total / 32);
  for (int over16 = 0; over16 < 2; ++over16) {
    s.sums[over16] = Buffer<int32_t>(total / (over16 ? 16 : 32));
    s.fsums[over16] = Buffer<float>(total / (over16 ? 16 : 32));
  }
}

}  // namespace

void pack_activations(ThreadPool& pool, const MatmulKernels& kernels, const CpuWeight& w, bool tiles, ConstMat x,
                      MatmulScratch& s) {
  if (w.quantised && !tiles) {
    const auto total = static_cast<size_t>((x.rows + 7) / 8 * 8 * x.cols);
    reserve_quantised(s, total);
    pool.for_each((x.rows + 7) / 8, [&](int64_t i) {
      const int64_t stop = std::min(x.rows, i * 8 + 8);
      for (int64_t t = i * 8; t < stop;) {
        const int count = next_quant_block(stop - t);
        const QuantTokens block = block_of(s, t, count, stop - t, x.cols);
        if (block.used < count) clear_block(block, x.cols);
        kernels.quantize(x.row(t), x.stride, x.cols, block);
        t += count;
      }
    });
  }
  if (w.floating) {
    const auto total = static_cast<size_t>((x.rows + 11) / 12 * 12 * x.cols);
    if (s.packed.size() < total) s.packed = Buffer<float>(total);
    pool.for_each((x.rows + 11) / 12, [&](int64_t i) {
      const int64_t stop = std::min(x.rows, i * 12 + 12);
      for (int64_t t = i * 12; t < stop;) {
        const int count = next_float_block(stop - t);
        const int used = static_cast<int>(std::min<int64_t>(count, stop - t));
        kernels.interleave(x.row(t), x.stride, count, used, x.cols, s.packed.data() + t * x.cols);
        t += count;
      }
    });
  }
}

TileTokens tiles_of(const MatmulScratch& s, int64_t t, int64_t left, int64_t cols, int64_t k0) {
  const int64_t at = (t * cols + k0 * kTileTokens) / 32;
  return {s.quads.data() + 32 * at,
          s.scales.data() + at,
          {s.fsums[0].data() + at, s.fsums[1].data() + 2 * at},
          static_cast<int>(std::min(kTileTokens, left))};
}

void pack_tiles(ThreadPool& pool, const AmxKernels& amx, ConstMat x, MatmulScratch& s) {
  const int64_t blocks = (x.rows + kTileTokens - 1) / kTileTokens, each = kTileTokens * x.cols;
  reserve_quantised(s, static_cast<size_t>(blocks * each));
  pool.for_each(blocks, [&](int64_t i) {
    const int used = static_cast<int>(std::min(kTileTokens, x.rows - i * kTileTokens));
    const int64_t at = i * each / 32;
    float* const fsums[2] = {s.fsums[0].data() + at, s.fsums[1].data() + 2 * at};
    if (used < kTileTokens) {
      std::fill_n(s.quads.data() + i * each, each, int8_t{0});
      std::fill_n(s.scales.data() + at, each / 32, 0.0f);
      for (int over16 = 0; over16 < 2; ++over16) std::fill_n(fsums[over16], each / (over16 ? 16 : 32), 0.0f);
    }
    amx.quantize(x.row(i * kTileTokens), x.stride, used, x.cols, s.quads.data() + i * each, s.scales.data() + at,
                 fsums);
  });
}

int64_t bf16_cols(int64_t cols) {
  return (cols + kTileInputs - 1) / kTileInputs * kTileInputs;
}

void pack_pairs(ThreadPool& pool, const AmxKernels* amx, bool split, ConstMat x, MatmulScratch& s) {
  const int64_t blocks = (x.rows + kTileTokens - 1) / kTileTokens, each = kTileTokens * bf16_cols(x.cols);
  const auto total = static_cast<size_t>(blocks * each * (split ? 2 : 1));
  if (s.pairs.size() < total) s.pairs = Buffer<uint16_t>(total);
  pool.for_each(blocks, [&](int64_t i) {
    const int used = static_cast<int>(std::min(kTileTokens, x.rows - i * kTileTokens));
    const auto pack = amx ? amx->pack_bf16 : scalar::pack_bf16;
    for (int low = 0; low <= (split ? 1 : 0); ++low)
      pack(x.row(i * kTileTokens), x.stride, used, x.cols, low == 1, s.pairs.data() + (low * blocks + i) * each);
  });
}

}  // namespace foveal
