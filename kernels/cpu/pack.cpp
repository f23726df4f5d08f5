// A panel is written in two passes over its rows: the first finds each row's unit, the second goes by chunks of 256
// inputs. In a chunk each row first stands by itself, as words[group][w] and halves d[sub], m[sub]; then sixteen rows
// are turned into columns. A group of 32 codes is, in every form, a few words of four codes' parts each, which is what
// the panel holds sixteen times side by side:
//   nibbles, table   4: codes 4j.. in the low, 16 + 4j.. in the high nibbles
//   five             and 1: bit j of byte i is the fifth bit of code 4j + i
//   six              and 2: bits 2j and up of byte i are the two high bits of code 4j + i, of code 16 + 4j + i
//   bytes            8: codes 4j..
// Vectors of 16 bytes, which every machine has: reading the file is what takes the time.
#include "kernels/cpu/pack.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/cpu/scalar/half.h"
#include "kernels/quant/blocks.h"

namespace foveal {

namespace {

constexpr int kRows = static_cast<int>(kPanelRows);
constexpr int64_t kChunk = 256;
constexpr int kGroups = kChunk / 32, kMostSubs = kChunk / 16;

using Bytes = uint8_t __attribute__((vector_size(16)));
using Words = uint32_t __attribute__((vector_size(16)));

template <class T>
T load(const void* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
void store(void* p, const T& v) {
  std::memcpy(p, &v, sizeof v);
}

using Ints = int32_t __attribute__((vector_size(16)));
using Floats4 = float __attribute__((vector_size(16)));
using Halves = int16_t __attribute__((vector_size(16)));
using Bytes4 = uint8_t __attribute__((vector_size(4)));
using Signed4 = int8_t __attribute__((vector_size(4)));
using Halves4 = uint16_t __attribute__((vector_size(8)));

// scalar::half_to_float of four, but for numbers that are none: they become NaN.
Floats4 widen(Halves4 h) {
  const Ints bits = __builtin_convertvector(h, Ints), magnitude = bits & 0x7fff;
  const Floats4 scaled = reinterpret_cast<Floats4>(magnitude << 13) * 0x1p112f;
  const Ints none = (magnitude >= 0x7c00) & 0x7fc00000;
  return reinterpret_cast<Floats4>(reinterpret_cast<Ints>(scaled) | none | (bits & 0x8000) << 16);
}

// scalar::float_to_half of four, magnitudes below 65520 or NaN.
Halves4 narrow(Floats4 x) {
  const Ints bits = reinterpret_cast<Ints>(x), magnitude = bits & 0x7fffffff;
  const Ints small = reinterpret_cast<Ints>(reinterpret_cast<Floats4>(magnitude) + 0.5f) - 0x3f000000;
  const Ints normal = (magnitude + (0xfff - 0x38000000) + (magnitude >> 13 & 1)) >> 13;
  const Ints is_small = magnitude < 0x38800000;
  const Ints is_none = magnitude >= 0x7f800000;
  const Ints finite = (small & is_small) | (normal & ~is_small);
  const Ints half = (finite & ~is_none) | (is_none & 0x7e00) | (bits >> 16 & 0x8000);
  return __builtin_convertvector(half, Halves4);
}

// ---- scales

// Types whose blocks of 32 begin with half-precision d, and m after it if the type has mins.
bool has_half_scales(TensorType type) {
  return type == TensorType::Q4_0 || type == TensorType::Q4_1 || type == TensorType::Q5_0 || type == TensorType::Q5_1 ||
         type == TensorType::Q8_0 || type == TensorType::IQ4_NL;
}

// Inputs k..k+7 of 8 rows of 16-bit numbers, `row_bytes` apart, to to[k * 16 + row].
void turn_eight(const uint8_t* rows, int64_t row_bytes, int64_t k, uint16_t* to) {
  Halves r[8], s[8];
  for (int i = 0; i < 8; ++i) r[i] = load<Halves>(rows + i * row_bytes + 2 * k);
  const auto halfway = [](const Halves* from, Halves* into) {
    for (int i = 0; i < 4; ++i) {
      into[2 * i] = __builtin_shufflevector(from[i], from[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
      into[2 * i + 1] = __builtin_shufflevector(from[i], from[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
    }
  };
  halfway(r, s);
  halfway(s, r);
  halfway(r, s);
  for (int i = 0; i < 8; ++i) store(to + (k + i) * kPanelRows, s[i]);
}

// to[k * 16 + row] = number k of row, for 16 rows of n 16-bit numbers.
void turn_halves(const uint8_t* rows, int64_t row_bytes, int64_t n, uint16_t* to) {
  int64_t k = 0;
  for (; k + 8 <= n; k += 8)
    for (int half = 0; half < 2; ++half) turn_eight(rows + half * 8 * row_bytes, row_bytes, k, to + half * 8);
  for (; k < n; ++k)
    for (int64_t r = 0; r < kRows; ++r) to[k * kRows + r] = load<uint16_t>(rows + r * row_bytes + 2 * k);
}

template <class T>
const uint8_t* bytes_of(const T& object) {
  return reinterpret_cast<const uint8_t*>(&object);
}

struct Scales {  // of a row's chunk, as many as it has sub-blocks
  float d[kMostSubs], m[kMostSubs];
  void pad(int n) {
    for (; n % 4 != 0; ++n) d[n] = m[n] = 0;
  }
};

// Eight 6-bit scales and mins of Q4_K and Q5_K.
void scales_of_k(const uint8_t* p, Scales& s) {
  const auto first = load<uint32_t>(p + 4), second = load<uint32_t>(p + 8), third = load<uint32_t>(p + 12);
  constexpr uint32_t kSixBits = 0x3f3f3f3f, kFourBits = 0x0f0f0f0f, kTwoBits = 0x03030303;
  const uint32_t high_d = (third & kFourBits) | (first >> 6 & kTwoBits) << 4;
  const uint32_t high_m = (third >> 4 & kFourBits) | (second >> 6 & kTwoBits) << 4;
  const float d = scalar::half_to_float(load<uint16_t>(p)), m = scalar::half_to_float(load<uint16_t>(p + 2));
  const auto floats = [](uint32_t codes) { return __builtin_convertvector(load<Bytes4>(&codes), Floats4); };
  store(s.d, d * floats(first & kSixBits));
  store(s.d + 4, d * floats(high_d));
  store(s.m, m * floats(second & kSixBits));
  store(s.m + 4, m * floats(high_m));
}

void scales_of(TensorType type, const uint8_t* p, int64_t n, Scales& s) {
  switch (type) {
    case TensorType::Q4_K:
    case TensorType::Q5_K:
      return scales_of_k(p, s);
    case TensorType::Q6_K: {
      const float d = scalar::half_to_float(load<uint16_t>(p + 208));
      for (int i = 0; i < 16; i += 4) store(s.d + i, d * __builtin_convertvector(load<Signed4>(p + 192 + i), Floats4));
      return;
    }
    default:
      affine_scales(type, p, n, s.d, s.m);
  }
}

// The power of two that brings the largest of a row's scales into [2^14, 2^15); 1 when it is no number.
float unit_of(float most) {
  return most > 0 && std::isfinite(most) ? std::ldexp(1.0f, std::max(std::ilogb(most), -100) - 14) : 1.0f;
}

struct Rows {
  TensorType type;
  const TypeTraits& traits;
  const uint8_t* data;
  int64_t bytes;  // of a row
  int n;
  int64_t cols;
};

struct Units {
  float of[kRows] = {}, inverse[kRows] = {};
  void set(int row, float most) {
    of[row] = unit_of(most);
    inverse[row] = 1.0f / of[row];
  }
};

// Magnitudes of floats are ordered as integers; a NaN is the largest.
Ints larger_magnitude(Ints most, Floats4 x) {
  const Ints magnitude = reinterpret_cast<Ints>(x) & 0x7fffffff;
  return magnitude > most ? magnitude : most;
}

float largest_scale(const Rows& w, int row, int sub, bool mins) {
  Ints most = {};
  const uint8_t* p = w.data + row * w.bytes;
  for (int64_t k = 0; k < w.cols; k += kChunk, p += kChunk / w.traits.block_elements * w.traits.block_bytes) {
    Scales s;
    const int64_t n = std::min(kChunk, w.cols - k);
    scales_of(w.type, p, n, s);
    s.pad(static_cast<int>(n / sub));
    for (int i = 0; i < n / sub; i += 4) {
      most = larger_magnitude(most, load<Floats4>(s.d + i));
      if (mins) most = larger_magnitude(most, load<Floats4>(s.m + i));
    }
  }
  return scalar::bits_float(static_cast<uint32_t>(std::max({most[0], most[1], most[2], most[3]})));
}

// One of the scales of the rows' blocks, at `offset`, to to[block][row] as the file has them; larger magnitudes to
// most.
void gather_halves(const Rows& w, int64_t offset, uint16_t* to, int16_t* most) {
  Halves largest[2] = {load<Halves>(most), load<Halves>(most + 8)};
  const uint8_t* p = w.data + offset;
  for (int64_t k = 0; k < w.cols; k += 32, p += w.traits.block_bytes, to += kRows) {
    for (int half = 0; half < 2; ++half) {
      Halves v = {};
      for (int r = 0; r < 8; ++r)
        if (half * 8 + r < w.n) v[r] = load<int16_t>(p + (half * 8 + r) * w.bytes);
      store(to + half * 8, v);
      const Halves magnitude = v & 0x7fff;
      largest[half] = magnitude > largest[half] ? magnitude : largest[half];
    }
  }
  store(most, largest[0]);
  store(most + 8, largest[1]);
}

// The same numbers in units of their rows.
void scale_halves(uint16_t* halves, int64_t blocks, const float* factors) {
  for (int64_t i = 0; i < blocks * kRows; i += 4)
    store(halves + i, narrow(widen(load<Halves4>(halves + i)) * load<Floats4>(factors + i % kRows)));
}

// Units, d and m of types with half-precision scales.
void pack_half_scales(const Rows& w, bool mins, Units& units, uint16_t* d, uint16_t* m) {
  int16_t most[kRows] = {};
  gather_halves(w, 0, d, most);
  if (mins) gather_halves(w, 2, m, most);
  for (int r = 0; r < w.n; ++r) units.set(r, scalar::half_to_float(static_cast<uint16_t>(most[r])));
  scale_halves(d, w.cols / 32, units.inverse);
  if (!mins) return;
  float negative[kRows];
  for (int r = 0; r < kRows; ++r) negative[r] = -units.inverse[r];
  scale_halves(m, w.cols / 32, negative);
}

// Units, d and m of all others.
void pack_scales(const Rows& w, int sub, bool mins, Units& units, uint16_t* d, uint16_t* m) {
  for (int r = 0; r < w.n; ++r) units.set(r, largest_scale(w, r, sub, mins));
  uint16_t halves[2][kRows][kMostSubs] = {};
  for (int64_t k = 0; k < w.cols; k += kChunk) {
    const int64_t n = std::min(kChunk, w.cols - k);
    const int subs = static_cast<int>(n / sub);
    const uint8_t* p = w.data + k / w.traits.block_elements * w.traits.block_bytes;
    for (int r = 0; r < w.n; ++r, p += w.bytes) {
      Scales s;
      scales_of(w.type, p, n, s);
      s.pad(subs);
      for (int i = 0; i < subs; i += 4) {
        store(&halves[0][r][i], narrow(load<Floats4>(s.d + i) * units.inverse[r]));
        if (mins) store(&halves[1][r][i], narrow(load<Floats4>(s.m + i) * units.inverse[r]));
      }
    }
    turn_halves(bytes_of(halves[0]), sizeof halves[0][0], subs, d + k / sub * kRows);
    if (mins) turn_halves(bytes_of(halves[1]), sizeof halves[1][0], subs, m + k / sub * kRows);
  }
}

// ---- codes

// 32 codes, each a byte, as nibbles.
Bytes nibbles(Bytes first, Bytes second) {
  return (first & 15) | second << 4;
}

uint32_t fifth_bits(const uint32_t* quads) {
  uint32_t word = 0;
  for (int j = 0; j < 8; ++j) word |= (quads[j] & 0x01010101) << j;
  return word;
}

uint32_t high_bits(const uint32_t* quads) {
  uint32_t word = 0;
  for (int j = 0; j < 4; ++j) word |= (quads[j] & 0x03030303) << 2 * j;
  return word;
}

// Any group whose codes are known, `form` words of it.
void words_of_codes(const uint8_t* codes, Codes form, uint32_t* words) {
  if (form == kBytes) {
    std::memcpy(words, codes, 32);
    return;
  }
  const auto first = load<Bytes>(codes), second = load<Bytes>(codes + 16);
  store(words, nibbles(first, second));
  uint32_t quads[8];
  store(quads, first >> 4);
  store(quads + 4, second >> 4);
  if (form == kFive) words[4] = fifth_bits(quads);
  if (form == kSix) words[4] = high_bits(quads), words[5] = high_bits(quads + 4);
}

// Two groups of Q4_K or Q5_K from 32 bytes: the low nibbles, then the high ones.
void words_of_k(const uint8_t* qs, uint32_t* words, int per_group) {
  const auto first = load<Bytes>(qs), second = load<Bytes>(qs + 16);
  store(words, (first & 15) | second << 4);
  store(words + per_group, first >> 4 | (second & 0xf0));
}

void words_of_q5k(const BlockQ5_K& b, uint32_t* words) {
  uint32_t quads[8], shifted[8];
  std::memcpy(quads, b.qh, sizeof quads);
  for (int g = 0; g < kGroups; ++g) {
    if (g % 2 == 0) words_of_k(b.qs + 16 * g, words + 5 * g, 5);
    for (int j = 0; j < 8; ++j) shifted[j] = quads[j] >> g;
    words[5 * g + 4] = fifth_bits(shifted);
  }
}

// Half a block of two-bit codes, four groups, each a quarter of the bits of 32 bytes; `third`: null, or 32 bytes of
// whose bits the lowest is the first group's third one.
void words_of_two_bits(const uint8_t* qs, const uint8_t* third, int shift, uint32_t* words) {
  Bytes low[2] = {load<Bytes>(qs), load<Bytes>(qs + 16)}, high[2] = {};
  if (third) high[0] = load<Bytes>(third) >> shift, high[1] = load<Bytes>(third + 16) >> shift;
  for (int g = 0; g < 4; ++g) {
    const auto code = [&](int i) { return (low[i] >> 2 * g & 3) | (high[i] >> g & 1) << 2; };
    store(words + 4 * g, code(0) | code(1) << 4);
  }
}

// A block of Q5_0 or Q5_1: of 32 fifth bits, then 32 nibbles.
void words_of_q5(const uint8_t* qh, uint32_t* words) {
  const auto bits = load<uint32_t>(qh);
  words[4] = 0;
  for (int j = 0; j < 8; ++j) words[4] |= (((bits >> 4 * j & 15) * 0x00204081) & 0x01010101) << j;
  store(words, load<Bytes>(qh + 4));
}

// Half a block: four groups whose low halves are two times 32 nibbles, their high ones two bits of 32 bytes.
void words_of_q6k(const uint8_t* ql, const uint8_t* qh, uint32_t* words) {
  const Bytes high[2] = {load<Bytes>(qh), load<Bytes>(qh + 16)};
  for (int g = 0; g < 4; ++g) {
    const auto first = load<Bytes>(ql + (g & 1) * 32), second = load<Bytes>(ql + (g & 1) * 32 + 16);
    store(words + 6 * g, g < 2 ? (first & 15) | second << 4 : first >> 4 | (second & 0xf0));
    for (int half = 0; half < 2; ++half) {
      uint32_t quads[4];
      store(quads, reinterpret_cast<Words>(high[half]) >> 2 * g);
      words[6 * g + 4 + half] = high_bits(quads);
    }
  }
}

// words[n / 32][form] of a row's chunk.
void words_of(TensorType type, const TypeTraits& t, Codes form, const uint8_t* p, int64_t n, uint32_t* words) {
  const int groups = static_cast<int>(n / 32), per_group = static_cast<int>(code_bytes(form) / 64);
  switch (type) {
    case TensorType::Q4_0:  // a block's nibbles lie in the file as in a panel
    case TensorType::Q4_1:
    case TensorType::IQ4_NL:
    case TensorType::MXFP4:
      for (int g = 0; g < groups; ++g) store(words + 4 * g, load<Bytes>(p + (g + 1) * t.block_bytes - 16));
      return;
    case TensorType::IQ4_XS:
      std::memcpy(words, p + 8, 128);
      return;
    case TensorType::Q5_0:
    case TensorType::Q5_1:
      for (int g = 0; g < groups; ++g) words_of_q5(p + (g + 1) * t.block_bytes - 20, words + 5 * g);
      return;
    case TensorType::Q2_K:
    case TensorType::TQ2_0:
      for (int half = 0; half < 2; ++half)
        words_of_two_bits(p + (type == TensorType::Q2_K ? 16 : 0) + 32 * half, nullptr, 0, words + 16 * half);
      return;
    case TensorType::Q3_K:
      for (int half = 0; half < 2; ++half) words_of_two_bits(p + 32 + 32 * half, p, 4 * half, words + 16 * half);
      return;
    case TensorType::Q8_0:
      for (int g = 0; g < groups; ++g, p += t.block_bytes)
        for (int i = 0; i < 2; ++i) store(words + 8 * g + 4 * i, load<Bytes>(p + 2 + 16 * i) ^ 0x80);
      return;
    case TensorType::Q4_K:
      for (int g = 0; g < kGroups; g += 2) words_of_k(p + 16 + 16 * g, words + 4 * g, 4);
      return;
    case TensorType::Q5_K:
      return words_of_q5k(*reinterpret_cast<const BlockQ5_K*>(p), words);
    case TensorType::Q6_K:
      for (int half = 0; half < 2; ++half) words_of_q6k(p + 64 * half, p + 128 + 32 * half, words + 24 * half);
      return;
    default: {
      uint8_t codes[kChunk];
      Scales unused;
      unpack_affine(type, p, n, codes, unused.d, unused.m);
      for (int g = 0; g < groups; ++g) words_of_codes(codes + 32 * g, form, words + per_group * g);
    }
  }
}

// ---- rows into columns

// to[w * 16 + row] = word w of row, for 16 rows of n words.
void turn_words(const uint8_t* rows, int64_t row_bytes, int n, uint32_t* to) {
  int w = 0;
  for (; w + 4 <= n; w += 4)
    for (int r = 0; r < kRows; r += 4) {
      const uint8_t* p = rows + r * row_bytes + 4 * w;
      const auto a = load<Words>(p), b = load<Words>(p + row_bytes);
      const auto c = load<Words>(p + 2 * row_bytes), d = load<Words>(p + 3 * row_bytes);
      const Words ac = __builtin_shufflevector(a, c, 0, 4, 1, 5), ac2 = __builtin_shufflevector(a, c, 2, 6, 3, 7);
      const Words bd = __builtin_shufflevector(b, d, 0, 4, 1, 5), bd2 = __builtin_shufflevector(b, d, 2, 6, 3, 7);
      store(to + w * kRows + r, __builtin_shufflevector(ac, bd, 0, 4, 1, 5));
      store(to + (w + 1) * kRows + r, __builtin_shufflevector(ac, bd, 2, 6, 3, 7));
      store(to + (w + 2) * kRows + r, __builtin_shufflevector(ac2, bd2, 0, 4, 1, 5));
      store(to + (w + 3) * kRows + r, __builtin_shufflevector(ac2, bd2, 2, 6, 3, 7));
    }
  for (; w < n; ++w)
    for (int r = 0; r < kRows; ++r) to[w * kRows + r] = load<uint32_t>(rows + r * row_bytes + 4 * w);
}

void pack_codes(const Rows& w, Codes form, uint32_t* codes) {
  constexpr int kMostWords = kGroups * 8;
  const int per_group = static_cast<int>(code_bytes(form) / 64);
  alignas(64) uint32_t words[kRows * kMostWords] = {};
  for (int64_t k = 0; k < w.cols; k += kChunk) {
    const int64_t n = std::min(kChunk, w.cols - k);
    const uint8_t* p = w.data + k / w.traits.block_elements * w.traits.block_bytes;
    for (int r = 0; r < w.n; ++r, p += w.bytes) words_of(w.type, w.traits, form, p, n, words + r * kMostWords);
    const int n_words = static_cast<int>(n / 32) * per_group;
    turn_words(bytes_of(words), 4 * kMostWords, n_words, codes);
    codes += n_words * kRows;
  }
}

}  // namespace

PanelLayout panel_layout(const AffineFormat& f, int64_t cols) {
  PanelLayout l;
  l.affine = f;
  l.form = f.table ? kTable : f.bits == 4 ? kNibbles : f.bits == 5 ? kFive : f.bits == 6 ? kSix : kBytes;
  const int64_t scale_bytes = (cols / f.sub * kPanelRows * 2 + 63) / 64 * 64;
  l.d_offset = kPanelRows * 4;
  l.m_offset = l.d_offset + scale_bytes;
  l.code_offset = l.m_offset + (f.mins ? scale_bytes : 0);
  l.bytes = l.code_offset + cols / 32 * code_bytes(l.form);
  return l;
}

void pack_panel(TensorType type, const uint8_t* rows, int64_t row_bytes, int n, int64_t cols, const PanelLayout& layout,
                uint8_t* panel) {
  const Rows w{type, traits_of(type), rows, row_bytes, n, cols};
  const bool mins = layout.affine.mins;
  auto* d = reinterpret_cast<uint16_t*>(panel + layout.d_offset);
  auto* m = reinterpret_cast<uint16_t*>(panel + layout.m_offset);
  Units units;
  if (has_half_scales(type)) {
    pack_half_scales(w, mins, units, d, m);
  } else {
    pack_scales(w, layout.affine.sub, mins, units, d, m);
  }
  std::memcpy(panel, units.of, sizeof units.of);
  pack_codes(w, layout.form, reinterpret_cast<uint32_t*>(panel + layout.code_offset));
}

void pack_float_panel(int64_t element_bytes, const uint8_t* rows, int64_t row_bytes, int n, int64_t cols,
                      uint8_t* panel) {
  if (n == kRows && element_bytes == 2) {
    turn_halves(rows, row_bytes, cols, reinterpret_cast<uint16_t*>(panel));
  } else if (n == kRows) {
    turn_words(rows, row_bytes, static_cast<int>(cols), reinterpret_cast<uint32_t*>(panel));
  } else {
    std::memset(panel, 0, static_cast<size_t>(cols * kRows * element_bytes));
    for (int r = 0; r < n; ++r)
      for (int64_t k = 0; k < cols; ++k)
        std::memcpy(panel + (k * kRows + r) * element_bytes, rows + r * row_bytes + k * element_bytes,
                    static_cast<size_t>(element_bytes));
  }
}

}  // namespace foveal
