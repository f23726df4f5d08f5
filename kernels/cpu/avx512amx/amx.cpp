// Products by AMX tiles; the float half of the work in AVX-512. Layouts and orders: kernels/cpu/amx.h.
#include "kernels/cpu/amx.h"

#include <immintrin.h>

#include <cstring>

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own intrinsics pass deliberately undefined operands (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define FOVEAL_INLINE static inline __attribute__((always_inline))

namespace foveal::avx512amx {

#include "kernels/cpu/simd/activations.h"

// Tiles 0..3 hold sums (16 x 16 words), 4 and 5 activations, 6 and 7 weights.
static void shape(TileShape s) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  const int inputs = s == TileShape::integer16 ? 16 : s == TileShape::integer32 ? 32 : 64;  // bytes of a token
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? inputs : 64);
    config.rows[i] = static_cast<uint8_t>(i < 6 ? 16 : inputs / 4);
  }
  __asm__ volatile("" : : "r"(&config) : "memory");  // GCC's intrinsic claims to read 8 bytes only
  _tile_loadconfig(&config);
}

static void release() {
  _tile_release();
}

static void quantize(const float* x, int64_t x_stride, int used, int64_t cols, int8_t* rows, float* scales,
                     float* const fsums[2]) {
  for (int64_t t = 0; t < used; ++t)
    for (int64_t g = 0; g < cols / 32; ++g) {
      const float* in = x + t * x_stride + g * 32;
      const float amax = largest_lane(most_of(in));
      scales[g * 16 + t] = amax / 127.0f;
      const __m256i q = round_to_int8(in, _mm256_set1_ps(amax > 0 ? 127.0f / amax : 0.0f)), sums = quad_sums(q);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(rows + (g * 16 + t) * 32), q);
      const int32_t low = sum4(_mm256_castsi256_si128(sums)), high = sum4(_mm256_extracti128_si256(sums, 1));
      fsums[0][g * 16 + t] = static_cast<float>(low + high);
      fsums[1][2 * g * 16 + t] = static_cast<float>(low);
      fsums[1][(2 * g + 1) * 16 + t] = static_cast<float>(high);
    }
}

static void recentre(uint8_t* codes, int64_t n, int32_t offset) {
  const __m512i less = _mm512_set1_epi8(static_cast<char>(offset));
  for (int64_t i = 0; i < n; i += 64)
    _mm512_storeu_si512(codes + i, _mm512_sub_epi8(_mm512_loadu_si512(codes + i), less));
}

FOVEAL_INLINE __m512 half16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

FOVEAL_INLINE void put(const MatmulOut& o, int t, int first, __m512 acc) {
  const int left = o.n_rows - first;
  const auto rows = static_cast<__mmask16>(left >= 16 ? 0xffff : (1u << left) - 1);
  if (o.bias) acc = _mm512_add_ps(acc, _mm512_maskz_loadu_ps(rows, o.bias + first));
  _mm512_mask_storeu_ps(o.out + t * o.stride + first, rows, acc);
}

// ---- integer products

// The dot products of 16 tokens and 16 rows over `Sub` inputs, [token][row], by the tiles Sums, 4 + Sums % 2 and
// 6 + Sums % 2 (numbers in the instructions).
#define FOVEAL_DOTS(Sums, Tokens, Rows) \
  _tile_zero(Sums);                     \
  _tile_loadd(Tokens, rows, 32);        \
  _tile_loadd(Rows, codes, 64);         \
  _tile_dpbssd(Sums, Tokens, Rows);     \
  _tile_stored(Sums, out, 64)

template <int Sums>
FOVEAL_INLINE void tile_dots(const uint8_t* codes, const int8_t* rows, int32_t* out) {
  if constexpr (Sums == 0) {
    FOVEAL_DOTS(0, 4, 6);
  } else if constexpr (Sums == 1) {
    FOVEAL_DOTS(1, 5, 7);
  } else if constexpr (Sums == 2) {
    FOVEAL_DOTS(2, 4, 6);
  } else {
    FOVEAL_DOTS(3, 5, 7);
  }
}
#undef FOVEAL_DOTS

// Group g, [sub-block][token][row]; Turn: which tiles and buffers it takes.
template <int Sub, int Turn>
FOVEAL_INLINE void dots(const uint8_t* codes, const int8_t* rows, int64_t g, int32_t (*buffers)[256]) {
  constexpr int kSubs = 32 / Sub;
  tile_dots<Turn * kSubs>(codes + g * 512, rows + g * 512, buffers[Turn * kSubs]);
  if constexpr (kSubs == 2)
    tile_dots<Turn * kSubs + 1>(codes + g * 512 + 256, rows + g * 512 + 16, buffers[Turn * kSubs + 1]);
}

template <int Sub, bool Mins>
FOVEAL_INLINE void add_group(const QuantPanel& w, const TileTokens& x, int64_t g, const int32_t (*dot)[256],
                             __m512 acc[16]) {
  constexpr int kSubs = 32 / Sub;
  __m512 d[kSubs], m[kSubs];
  for (int s = 0; s < kSubs; ++s) {
    d[s] = half16(w.d + (g * kSubs + s) * kPanelRows);
    m[s] = Mins ? half16(w.m + (g * kSubs + s) * kPanelRows) : _mm512_setzero_ps();
  }
#pragma GCC unroll 16
  for (int t = 0; t < 16; ++t) {
    __m512 part;
#pragma GCC unroll 2
    for (int s = 0; s < kSubs; ++s) {
      const __m512 f = _mm512_cvtepi32_ps(_mm512_load_si512(dot[s] + t * 16));
      part = s == 0 ? _mm512_mul_ps(f, d[s]) : _mm512_fmadd_ps(f, d[s], part);
      if (Mins) part = _mm512_fnmadd_ps(m[s], _mm512_set1_ps(x.fsums[Sub == 16][(g * kSubs + s) * 16 + t]), part);
    }
    acc[t] = _mm512_fmadd_ps(part, _mm512_set1_ps(x.scales[g * 16 + t]), acc[t]);
  }
}

template <int Sub, bool Mins>
static void product_of(const QuantPanel& w, const TileTokens& x, const RangeSums& r, const MatmulOut& o) {
  constexpr int kSubs = 32 / Sub;
  alignas(64) int32_t dot[4][256];
  __m512 acc[16];
#pragma GCC unroll 16
  for (int t = 0; t < 16; ++t) acc[t] = r.first ? _mm512_setzero_ps() : _mm512_load_ps(r.sums + t * 16);
  const int64_t groups = w.cols / 32;
  // Tiles take long to come out: groups are under way, in turns, while earlier ones are summed up.
  const auto start = [&]<int Turn>(int64_t g) __attribute__((always_inline)) {
    if (g < groups) dots<Sub, Turn>(w.codes, x.rows, g, dot);
  };
  const auto end = [&]<int Turn>(int64_t g) __attribute__((always_inline)) {
    if (g < groups) add_group<Sub, Mins>(w, x, g, dot + Turn * kSubs, acc);
  };
  start.template operator()<0>(0);
  if constexpr (kSubs == 2) {
    for (int64_t g = 0; g < groups; g += 2) {
      start.template operator()<1>(g + 1);
      end.template operator()<0>(g);
      start.template operator()<0>(g + 2);
      end.template operator()<1>(g + 1);
    }
  } else {
    start.template operator()<1>(1);
    start.template operator()<2>(2);
    for (int64_t g = 0; g < groups; g += 4) {
      start.template operator()<3>(g + 3);
      end.template operator()<0>(g);
      start.template operator()<0>(g + 4);
      end.template operator()<1>(g + 1);
      start.template operator()<1>(g + 5);
      end.template operator()<2>(g + 2);
      start.template operator()<2>(g + 6);
      end.template operator()<3>(g + 3);
    }
  }
  const __m512 units = _mm512_loadu_ps(w.units);
#pragma GCC unroll 16
  for (int t = 0; t < 16; ++t) {
    if (!r.last) {
      _mm512_store_ps(r.sums + t * 16, acc[t]);
    } else if (t < x.used) {
      put(o, t, 0, _mm512_mul_ps(acc[t], units));
    }
  }
}

template <int Sub>
static void product(const QuantPanel& w, const TileTokens& x, const RangeSums& r, const MatmulOut& o) {
  return w.m ? product_of<Sub, true>(w, x, r, o) : product_of<Sub, false>(w, x, r, o);
}

// ---- products in bfloat16

// v - v rounded to bfloat16
FOVEAL_INLINE __m512 left_over(__m512 v) {
  const __m256bh rounded = _mm512_cvtneps_pbh(v);
  __m256i bits;
  std::memcpy(&bits, &rounded, 32);
  return _mm512_sub_ps(v, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)));
}

// 32 inputs of one token a step.
static void pack_bf16(const float* x, int64_t x_stride, int used, int64_t cols, bool rest, uint16_t* to) {
  for (int64_t k = 0; k < cols; k += kTileInputs)
    for (int t = 0; t < kTileTokens; ++t, to += kTileInputs) {
      const int64_t n = t >= used ? 0 : cols - k < 32 ? cols - k : 32;
      const auto mask = [n](int64_t first) {
        return static_cast<__mmask16>(n <= first ? 0 : n - first >= 16 ? 0xffff : (1u << (n - first)) - 1);
      };
      const float* in = x + t * x_stride + k;
      __m512 low = _mm512_maskz_loadu_ps(mask(0), in), high = _mm512_maskz_loadu_ps(mask(16), in + 16);
      if (rest) {
        low = left_over(low);
        high = left_over(high);
      }
      const __m512bh rounded = _mm512_cvtne2ps_pbh(high, low);
      std::memcpy(to, &rounded, 64);
    }
}

FOVEAL_INLINE __m512 load16(Floats type, const void* values, int64_t k) {
  const auto* halves = static_cast<const uint16_t*>(values) + k * kPanelRows;
  if (type == kF16) return half16(halves);
  if (type == kF32) return _mm512_loadu_ps(static_cast<const float*>(values) + k * kPanelRows);
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

FOVEAL_INLINE void put_pair(__m512 even, __m512 odd, uint32_t* to) {
  const auto bits = [](__m512 v) __attribute__((always_inline)) {
    const __m256bh rounded = _mm512_cvtneps_pbh(v);
    __m256i words;
    std::memcpy(&words, &rounded, 32);
    return _mm512_cvtepu16_epi32(words);
  };
  _mm512_storeu_si512(to, _mm512_or_si512(bits(even), _mm512_slli_epi32(bits(odd), 16)));
}

template <Floats Type>
FOVEAL_INLINE void pairs_of(const void* values, int64_t n, uint32_t* high, uint32_t* low) {
  const int64_t filled = (n + kTileInputs - 1) / kTileInputs * kTileInputs;
  for (int64_t k = 0; k < filled; k += 2) {
    const __m512 even = k < n ? load16(Type, values, k) : _mm512_setzero_ps();
    const __m512 odd = k + 1 < n ? load16(Type, values, k + 1) : _mm512_setzero_ps();
    put_pair(even, odd, high + k / 2 * kPanelRows);
    if (low) put_pair(left_over(even), left_over(odd), low + k / 2 * kPanelRows);
  }
}

static void pairs(Floats type, const void* values, int64_t n, uint32_t* high, uint32_t* low) {
  if (type == kF16) return pairs_of<kF16>(values, n, high, low);
  if (type == kBF16) return pairs_of<kBF16>(values, n, high, low);
  return pairs_of<kF32>(values, n, high, low);
}

template <int Panels, int Blocks>
static void bf16_of(const uint32_t* const* panels, const Bf16Tokens& x, const RangeSums& r, const MatmulOut& o) {
  const int64_t stride = Panels * kPanelRows * 4;  // bytes between the sums of two tokens
  float* const sums1 = r.sums + kTileTokens * Panels * kPanelRows;
  const uint16_t* x1 = x.x + (Blocks == 2 ? x.block_stride : 0);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  if (!r.first) {
    _tile_loadd(0, r.sums, stride);
    if (Panels == 2) _tile_loadd(1, r.sums + kPanelRows, stride);
    if (Blocks == 2) _tile_loadd(2, sums1, stride);
    if (Panels * Blocks == 4) _tile_loadd(3, sums1 + kPanelRows, stride);
  }
  for (int64_t g = 0; g < x.n_groups; ++g) {
    _tile_loadd(4, x.x + g * 512, 64);
    _tile_loadd(6, panels[0] + g * 256, 64);
    _tile_dpbf16ps(0, 4, 6);
    if (Blocks == 2) {
      _tile_loadd(5, x1 + g * 512, 64);
      _tile_dpbf16ps(2, 5, 6);
    }
    if (Panels == 2) {
      _tile_loadd(7, panels[1] + g * 256, 64);
      _tile_dpbf16ps(1, 4, 7);
      if (Blocks == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, r.sums, stride);
  if (Panels == 2) _tile_stored(1, r.sums + kPanelRows, stride);
  if (Blocks == 2) _tile_stored(2, sums1, stride);
  if (Panels * Blocks == 4) _tile_stored(3, sums1 + kPanelRows, stride);
  if (!r.last) return;
  for (int t = 0; t < Blocks * kTileTokens && t < x.used; ++t)
    for (int p = 0; p < Panels; ++p) put(o, t, p * 16, _mm512_load_ps(r.sums + (t * Panels + p) * kPanelRows));
}

static void product_bf16(const uint32_t* const* panels, int n_panels, const Bf16Tokens& x, const RangeSums& r,
                         const MatmulOut& o) {
  if (n_panels == 2) return x.blocks == 2 ? bf16_of<2, 2>(panels, x, r, o) : bf16_of<2, 1>(panels, x, r, o);
  return x.blocks == 2 ? bf16_of<1, 2>(panels, x, r, o) : bf16_of<1, 1>(panels, x, r, o);
}

extern const AmxKernels kernels;
const AmxKernels kernels = {shape,     release, quantize,    recentre, {product<32>, product<16>},
                            pack_bf16, pairs,   product_bf16};

}  // namespace foveal::avx512amx
