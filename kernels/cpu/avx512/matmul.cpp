// AVX-512 with VNNI: one register holds a panel's 16 rows. Layouts: kernels/cpu/matmul.h.
#include "kernels/cpu/matmul.h"

#include <immintrin.h>

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own intrinsics pass deliberately undefined operands (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define FOVEAL_INLINE static inline __attribute__((always_inline))

namespace foveal::avx512 {

#include "kernels/cpu/simd/activations.h"

FOVEAL_INLINE __m512 half16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// Bits of `high`, moved by Shift to the left (negative: right) and masked, joined with `low`.
template <int Shift>
FOVEAL_INLINE __m512i join(__m512i low, __m512i high, __m512i mask) {
  const __m512i moved =
      Shift >= 0 ? _mm512_slli_epi16(high, Shift < 0 ? 0 : Shift) : _mm512_srli_epi16(high, Shift < 0 ? -Shift : 0);
  return _mm512_ternarylogic_epi32(low, moved, mask, 0xf8);  // low | (moved & mask)
}

// The codes of a group's quads 0..7, a byte each, [row][4] in a register.
template <Codes C>
FOVEAL_INLINE void decode(const uint8_t* p, __m512i table, __m512i codes[8]) {
  if (C == kBytes) {
    for (int j = 0; j < 8; ++j) codes[j] = _mm512_loadu_si512(p + 64 * j);
    return;
  }
  const __m512i nibble = _mm512_set1_epi8(15);
  for (int j = 0; j < 4; ++j) {
    const __m512i both = _mm512_loadu_si512(p + 64 * j);
    codes[j] = _mm512_and_si512(both, nibble);
    codes[j + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
  }
  if (C == kFive) {
    const __m512i high = _mm512_loadu_si512(p + 256), mask = _mm512_set1_epi8(16);
    codes[0] = join<4>(codes[0], high, mask);
    codes[1] = join<3>(codes[1], high, mask);
    codes[2] = join<2>(codes[2], high, mask);
    codes[3] = join<1>(codes[3], high, mask);
    codes[4] = join<0>(codes[4], high, mask);
    codes[5] = join<-1>(codes[5], high, mask);
    codes[6] = join<-2>(codes[6], high, mask);
    codes[7] = join<-3>(codes[7], high, mask);
  } else if (C == kSix) {
    const __m512i mask = _mm512_set1_epi8(48);
    for (int h = 0; h < 2; ++h) {
      const __m512i high = _mm512_loadu_si512(p + 256 + 64 * h);
      codes[4 * h] = join<4>(codes[4 * h], high, mask);
      codes[4 * h + 1] = join<2>(codes[4 * h + 1], high, mask);
      codes[4 * h + 2] = join<0>(codes[4 * h + 2], high, mask);
      codes[4 * h + 3] = join<-2>(codes[4 * h + 3], high, mask);
    }
  } else if (C == kTable) {
    for (int j = 0; j < 8; ++j) codes[j] = _mm512_shuffle_epi8(table, codes[j]);
  }
}

FOVEAL_INLINE __m512i table_of(const QuantPanel& w, bool used) {
  if (!used) return _mm512_setzero_si512();
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w.table)));
}

FOVEAL_INLINE __mmask16 rows_of(const MatmulOut& o, int first) {
  return static_cast<__mmask16>(o.n_rows - first >= 16 ? 0xffff : (1u << (o.n_rows - first)) - 1);
}

FOVEAL_INLINE void put(const MatmulOut& o, int t, int first, __m512 acc) {
  const __mmask16 rows = rows_of(o, first);
  if (o.bias) acc = _mm512_add_ps(acc, _mm512_maskz_loadu_ps(rows, o.bias + first));
  _mm512_mask_storeu_ps(o.out + t * o.stride + first, rows, acc);
}

constexpr int64_t kAhead = 4096;  // bytes that decode asks for in advance, past the panel's end: the next one follows

// T tokens against one panel, decoded in registers.
template <Codes C, int Sub, bool Mins, int T>
FOVEAL_INLINE void few_block(const QuantPanel& w, const QuantTokens& x, const MatmulOut& o) {
  constexpr int kSubs = 32 / Sub, kQuads = Sub / 4, kChains = T < 4 ? T : 4;  // dot products in flight at a time
  const auto* quads = reinterpret_cast<const int32_t*>(x.quads);
  const __m512i table = table_of(w, C == kTable);
  __m512 acc[T];
  for (int t = 0; t < T; ++t) acc[t] = _mm512_setzero_ps();
  for (int64_t g = 0; g < w.cols / 32; ++g) {
    __m512i codes[8];
    const uint8_t* p = w.codes + g * code_bytes(C);
    decode<C>(p, table, codes);
    for (int64_t line = 0; line < code_bytes(C); line += 64) _mm_prefetch(p + kAhead + line, _MM_HINT_T0);
    __m512 d[kSubs], m[kSubs];
    for (int s = 0; s < kSubs; ++s) {
      d[s] = half16(w.d + (g * kSubs + s) * kPanelRows);
      m[s] = Mins ? half16(w.m + (g * kSubs + s) * kPanelRows) : _mm512_setzero_ps();
    }
    for (int t0 = 0; t0 < T; t0 += kChains) {
      __m512 part[kChains];
      for (int s = 0; s < kSubs; ++s) {
        const int64_t sums = (g * kSubs + s) * T + t0;
        const int32_t* quad = quads + (g * 8 + s * kQuads) * T + t0;
        __m512i dot[kChains];
        for (int i = 0; i < kChains; ++i)
          dot[i] = Mins ? _mm512_setzero_si512() : _mm512_set1_epi32(x.sums[Sub == 16][sums + i] * -w.offset);
        for (int j = 0; j < kQuads; ++j)
          for (int i = 0; i < kChains; ++i)
            dot[i] = _mm512_dpbusd_epi32(dot[i], codes[s * kQuads + j], _mm512_set1_epi32(quad[j * T + i]));
        for (int i = 0; i < kChains; ++i) {
          const __m512 f = _mm512_cvtepi32_ps(dot[i]);
          part[i] = s == 0 ? _mm512_mul_ps(f, d[s]) : _mm512_fmadd_ps(f, d[s], part[i]);
          if (Mins) part[i] = _mm512_fnmadd_ps(m[s], _mm512_set1_ps(x.fsums[Sub == 16][sums + i]), part[i]);
        }
      }
      for (int i = 0; i < kChains; ++i)
        acc[t0 + i] = _mm512_fmadd_ps(part[i], _mm512_set1_ps(x.scales[g * T + t0 + i]), acc[t0 + i]);
    }
  }
  for (int t = 0; t < T && t < x.used; ++t) put(o, t, 0, _mm512_mul_ps(acc[t], _mm512_loadu_ps(w.units)));
}

template <Codes C, int Sub, bool Mins>
static void few_of(const QuantPanel& w, const QuantTokens& x, const MatmulOut& o) {
  switch (x.count) {
    case 8:
      return few_block<C, Sub, Mins, 8>(w, x, o);
    case 4:
      return few_block<C, Sub, Mins, 4>(w, x, o);
    case 2:
      return few_block<C, Sub, Mins, 2>(w, x, o);
    default:
      return few_block<C, Sub, Mins, 1>(w, x, o);
  }
}

template <Codes C, int Sub>
static void few(const QuantPanel& w, const QuantTokens& x, const MatmulOut& o) {
  return w.m ? few_of<C, Sub, true>(w, x, o) : few_of<C, Sub, false>(w, x, o);
}

template <Codes C>
static void expand(const QuantPanel& w, uint8_t* bytes) {
  const __m512i table = table_of(w, C == kTable);
  for (int64_t g = 0; g < w.cols / 32; ++g) {
    __m512i codes[8];
    decode<C>(w.codes + g * code_bytes(C), table, codes);
    for (int j = 0; j < 8; ++j) _mm512_storeu_si512(bytes + g * 512 + 64 * j, codes[j]);
  }
}

constexpr int32_t kMagicBits =
    0x4b400000;                        // as float32 kMagic: adding a small integer to the bits adds it to the value
constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23

// What a group is read from, moved on from group to group.
template <int P>
struct Sources {
  const uint8_t* codes[P];
  const uint16_t *d[P], *m[P];
  const int32_t *quads, *sums, *starts;  // starts: [sub-block][8 tokens], what a dot product begins with
  const float *scales, *fsums;
};

// One group of 32 inputs: N tokens from t0 on of T, P panels of bytes; all its dot products stay in registers. Each
// starts from kMagic's bits, so that read as float32 it is kMagic + dot, and dot * d = (kMagic + dot) * d - kMagic * d
// with one rounding, the last product being exact.
template <int Sub, bool Mins, int P, int T, int N>
FOVEAL_INLINE void group_tile(const Sources<P>& in, int t0, float* acc) {
  constexpr int kSubs = 32 / Sub, kQuads = Sub / 4;
  __m512i dot[kSubs][N][P];
#pragma GCC unroll 2
  for (int s = 0; s < kSubs; ++s) {
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) {
      const __m512i start = _mm512_set1_epi32(Mins ? kMagicBits : in.starts[s * 8 + t0 + t]);
#pragma GCC unroll 2
      for (int p = 0; p < P; ++p) dot[s][t][p] = start;
    }
#pragma GCC unroll 8
    for (int j = s * kQuads; j < (s + 1) * kQuads; ++j) {
      __m512i codes[P];
#pragma GCC unroll 2
      for (int p = 0; p < P; ++p) codes[p] = _mm512_loadu_si512(in.codes[p] + j * 64);
#pragma GCC unroll 8
      for (int t = 0; t < N; ++t) {
        const __m512i four = _mm512_set1_epi32(in.quads[j * T + t0 + t]);
#pragma GCC unroll 2
        for (int p = 0; p < P; ++p) dot[s][t][p] = _mm512_dpbusd_epi32(dot[s][t][p], codes[p], four);
      }
    }
  }
  const __m512 magic = _mm512_set1_ps(kMagic);
#pragma GCC unroll 2
  for (int p = 0; p < P; ++p) {
    __m512 d[kSubs], m[kSubs];
#pragma GCC unroll 2
    for (int s = 0; s < kSubs; ++s) {
      d[s] = half16(in.d[p] + s * kPanelRows);
      m[s] = Mins ? half16(in.m[p] + s * kPanelRows) : _mm512_setzero_ps();
    }
    const __m512 over = _mm512_mul_ps(magic, d[0]);
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) {
      __m512 part = _mm512_fmsub_ps(_mm512_castsi512_ps(dot[0][t][p]), d[0], over);
#pragma GCC unroll 2
      for (int s = 0; s < kSubs; ++s) {
        if (s > 0) part = _mm512_fmadd_ps(_mm512_sub_ps(_mm512_castsi512_ps(dot[s][t][p]), magic), d[s], part);
        if (Mins) part = _mm512_fnmadd_ps(m[s], _mm512_set1_ps(in.fsums[s * T + t0 + t]), part);
      }
      float* sum = acc + ((t0 + t) * P + p) * 16;
      _mm512_store_ps(sum, _mm512_fmadd_ps(part, _mm512_set1_ps(in.scales[t0 + t]), _mm512_load_ps(sum)));
    }
  }
}

// T tokens against P panels of bytes. The float sums lie in memory (the first-level cache), so that there are 16
// integer chains in registers and each broadcast of four activations serves P dot products.
template <int Sub, bool Mins, int P, int T>
FOVEAL_INLINE void many_block(const QuantPanel* w, const QuantTokens& x, const RangeSums& r, const MatmulOut& o) {
  constexpr int kSubs = 32 / Sub, N = T < 2 ? T : T / kSubs;
  alignas(32) int32_t room[kSubs * 8];
  int32_t* starts = room;
  __asm__("" : "+r"(starts));  // they stay in memory: read back one by one by the load ports
  float* const acc = r.sums;
  Sources<P> in;
  for (int p = 0; p < P; ++p) in.codes[p] = w[p].codes, in.d[p] = w[p].d, in.m[p] = w[p].m;
  in.quads = reinterpret_cast<const int32_t*>(x.quads);
  in.sums = x.sums[Sub == 16];
  in.fsums = x.fsums[Sub == 16];
  in.scales = x.scales;
  in.starts = starts;
  const __m256i offset = _mm256_set1_epi32(-w[0].offset), magic = _mm256_set1_epi32(kMagicBits);
  if (r.first)
    for (int i = 0; i < T * P; ++i) _mm512_store_ps(acc + 16 * i, _mm512_setzero_ps());
  for (int64_t left = w[0].cols / 32; left > 0; --left) {
    for (int s = 0; s < kSubs && !Mins; ++s) {
      const __mmask8 tokens = static_cast<__mmask8>((1u << T) - 1);
      const __m256i sums = _mm256_maskz_loadu_epi32(tokens, in.sums + s * T);
      _mm256_store_si256(reinterpret_cast<__m256i*>(starts + s * 8),
                         _mm256_add_epi32(_mm256_mullo_epi32(sums, offset), magic));
    }
#pragma GCC unroll 2
    for (int t0 = 0; t0 < T; t0 += N) group_tile<Sub, Mins, P, T, N>(in, t0, acc);
    for (int p = 0; p < P; ++p)
      in.codes[p] += 512, in.d[p] += kSubs * kPanelRows, in.m[p] += Mins ? kSubs * kPanelRows : 0;
    in.quads += 8 * T;
    in.sums += kSubs * T;
    in.fsums += kSubs * T;
    in.scales += T;
  }
  for (int t = 0; t < T && t < x.used && r.last; ++t)
    for (int p = 0; p < P; ++p)
      put(o, t, p * 16, _mm512_mul_ps(_mm512_load_ps(acc + (t * P + p) * 16), _mm512_loadu_ps(w[p].units)));
}

template <int Sub, bool Mins, int P>
static void many_of(const QuantPanel* w, const QuantTokens& x, const RangeSums& r, const MatmulOut& o) {
  switch (x.count) {
    case 8:
      return many_block<Sub, Mins, P, 8>(w, x, r, o);
    case 4:
      return many_block<Sub, Mins, P, 4>(w, x, r, o);
    case 2:
      return many_block<Sub, Mins, P, 2>(w, x, r, o);
    default:
      return many_block<Sub, Mins, P, 1>(w, x, r, o);
  }
}

template <int Sub>
static void many(const QuantPanel* w, int n_panels, const QuantTokens& x, const RangeSums& r, const MatmulOut& o) {
  if (n_panels == 2) return w->m ? many_of<Sub, true, 2>(w, x, r, o) : many_of<Sub, false, 2>(w, x, r, o);
  return w->m ? many_of<Sub, true, 1>(w, x, r, o) : many_of<Sub, false, 1>(w, x, r, o);
}

// Values i .. i+15 as float32.
template <Floats F>
FOVEAL_INLINE __m512 values16(const void* values, int64_t i) {
  if (F == kF32) return _mm512_loadu_ps(static_cast<const float*>(values) + i);
  const auto* bits = static_cast<const uint16_t*>(values) + i;
  if (F == kF16) return half16(bits);
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bits)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

constexpr RangeSums kWhole{nullptr, true, true};

// T tokens against P panels: each broadcast of an activation serves P products.
template <Floats F, int P, int T>
FOVEAL_INLINE void float_block(const void* const* panels, const FloatTokens& x, const RangeSums& r,
                               const MatmulOut& o) {
  __m512 acc[T][P];
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < P; ++p)
      acc[t][p] = r.first ? _mm512_setzero_ps() : _mm512_load_ps(r.sums + (t * P + p) * kPanelRows);
  const float* token = x.x;
  for (int64_t k = 0; k < x.n_k; ++k, token += T) {
    __m512 value[P];
    for (int p = 0; p < P; ++p) value[p] = values16<F>(panels[p], k * kPanelRows);
    for (int t = 0; t < T; ++t) {
      const __m512 same = _mm512_set1_ps(token[t]);
      for (int p = 0; p < P; ++p) acc[t][p] = _mm512_fmadd_ps(value[p], same, acc[t][p]);
    }
  }
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < P; ++p) {
      if (!r.last) {
        _mm512_store_ps(r.sums + (t * P + p) * kPanelRows, acc[t][p]);
      } else if (t < x.used) {
        put(o, t, p * 16, acc[t][p]);
      }
    }
}

template <Floats F, int P>
FOVEAL_INLINE void floats_of(const void* const* panels, const FloatTokens& x, const RangeSums& r, const MatmulOut& o) {
  switch (x.count) {
    case 12:
      return float_block<F, P, 12>(panels, x, r, o);
    case 8:
      return float_block<F, P, 8>(panels, x, r, o);
    case 4:
      return float_block<F, P, 4>(panels, x, r, o);
    case 2:
      return float_block<F, P, 2>(panels, x, r, o);
    default:
      return float_block<F, P, 1>(panels, x, r, o);
  }
}

template <Floats F>
static void few_floats(const void* panel, const FloatTokens& x, const MatmulOut& o) {
  return floats_of<F, 1>(&panel, x, kWhole, o);
}

static void many_floats(const float* const* panels, int n_panels, const FloatTokens& x, const RangeSums& r,
                        const MatmulOut& o) {
  const void* const each[2] = {panels[0], panels[n_panels - 1]};
  return n_panels == 2 ? floats_of<kF32, 2>(each, x, r, o) : floats_of<kF32, 1>(each, x, r, o);
}

// n is a multiple of 16.
template <Floats F>
static void widen(const void* values, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i += 16) _mm512_storeu_ps(to + i, values16<F>(values, i));
}

#include "kernels/cpu/matmul_table.inc"

}  // namespace foveal::avx512
