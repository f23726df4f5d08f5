// A panel is written by chunks of 256 inputs. In a chunk each row first stands by itself, as words[group][w]; then
// sixteen rows are turned into columns. A group of 32 codes is, in every form, a few words of four codes' parts each,
// which is what the panel holds sixteen times side by side:
//   nibbles, table   4: codes 4j.. in the low, 16 + 4j.. in the high nibbles
//   five             and 1: bit j of byte i is the fifth bit of code 4j + i
//   six              and 2: bits 2j and up of byte i are the two high bits of code 4j + i, of code 16 + 4j + i
//   bytes            8: codes 4j..
// Vectors of 16 bytes, which every machine has: reading the file is what takes the time. Scales: pack_scales.cpp.
#include "kernels/cpu/pack.h"

#include <algorithm>

#include "kernels/cpu/pack_detail.h"
#include "kernels/quant/blocks.h"

namespace foveal {

namespace pack {

namespace {

constexpr int kGroups = kChunk / 32;

using Bytes = uint8_t __attribute__((vector_size(16)));
using Words = uint32_t __attribute__((vector_size(16)));
using Halves = int16_t __attribute__((vector_size(16)));

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
      float scales[2][kChunk / 16];
      unpack_affine(type, p, n, codes, scales[0], scales[1]);
      for (int g = 0; g < groups; ++g) words_of_codes(codes + 32 * g, form, words + per_group * g);
    }
  }
}
// ---- rows into columns

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

void turn_halves(const uint8_t* rows, int64_t row_bytes, int64_t n, uint16_t* to) {
  int64_t k = 0;
  for (; k + 8 <= n; k += 8)
    for (int half = 0; half < 2; ++half) turn_eight(rows + half * 8 * row_bytes, row_bytes, k, to + half * 8);
  for (; k < n; ++k)
    for (int64_t r = 0; r < kRows; ++r) to[k * kRows + r] = load<uint16_t>(rows + r * row_bytes + 2 * k);
}

}  // namespace pack

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
  const pack::Rows w{type, traits_of(type), rows, row_bytes, n, cols};
  pack::pack_scales(w, layout.affine.sub, layout.affine.mins, reinterpret_cast<float*>(panel),
                    reinterpret_cast<uint16_t*>(panel + layout.d_offset),
                    reinterpret_cast<uint16_t*>(panel + layout.m_offset));
  pack::pack_codes(w, layout.form, reinterpret_cast<uint32_t*>(panel + layout.code_offset));
}

void pack_float_panel(int64_t element_bytes, const uint8_t* rows, int64_t row_bytes, int n, int64_t cols,
                      uint8_t* panel) {
  if (n == kPanelRows && element_bytes == 2) {
    pack::turn_halves(rows, row_bytes, cols, reinterpret_cast<uint16_t*>(panel));
  } else if (n == kPanelRows) {
    pack::turn_words(rows, row_bytes, static_cast<int>(cols), reinterpret_cast<uint32_t*>(panel));
  } else {
    std::memset(panel, 0, static_cast<size_t>(cols * kPanelRows * element_bytes));
    for (int64_t r = 0; r < n; ++r)
      for (int64_t k = 0; k < cols; ++k)
        std::memcpy(panel + (k * kPanelRows + r) * element_bytes, rows + r * row_bytes + k * element_bytes,
                    static_cast<size_t>(element_bytes));
  }
}

}  // namespace foveal
