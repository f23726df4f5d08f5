// KV rows as they are stored, to and from float32. Scalar twin: kernels/cpu/scalar/rows.cpp, equal bit for bit.
#pragma once

namespace foveal::FOVEAL_SIMD {
namespace {

// A block of 32 numbers. q8: x = d * q. q4: x = d * (q - 8), numbers 0..15 in the low nibbles.
struct Q8Block {
  uint16_t d;
  int8_t q[32];
};
struct Q4Block {
  uint16_t d;
  uint8_t q[16];
};
static_assert(sizeof(Q8Block) == 34 && sizeof(Q4Block) == 18);

inline float largest_size(const float* x) {  // of 32
  vf m = abs(load(x));
  for (int i = lanes; i < 32; i += lanes) m = max(m, abs(load(x + i)));
  return largest(m);
}

inline void store_q8(Q8Block& block, const float* x) {
  const float d = largest_size(x) / 127.0f, inverse = d > 0 ? 1.0f / d : 0.0f;
  block.d = half_of(d);
  for (int i = 0; i < 32; i += lanes) store_bytes(block.q + i, to_int(mul(load(x + i), set(inverse))));
}

// The number of largest magnitude (the first of them) maps to -8 exactly.
inline void store_q4(Q4Block& block, const float* x) {
  const float size = largest_size(x);
  float extreme = size;
  for (int i = 0; i < 32; i += lanes) {
    const uint32_t found = bits(equal(abs(load(x + i)), set(size)));
    if (found == 0) continue;
    extreme = x[i + __builtin_ctz(found)];
    break;
  }
  const float d = extreme / -8.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
  block.d = half_of(d);
  const auto level = [&](const float* p) {
    const vf q = add(round(mul(load(p), set(inverse))), set(8.0f));
    return to_int(min(set(15.0f), max(zero(), q)));
  };
  for (int i = 0; i < 16; i += lanes) store_bytes(block.q + i, or_int(level(x + i), shift_up4(level(x + 16 + i))));
}

inline void load_q8(float* x, const Q8Block& block) {
  const vf d = set(float_of(block.d));
  for (int i = 0; i < 32; i += lanes) store(x + i, mul(d, to_float(load_signed_bytes(block.q + i))));
}

inline void load_q4(float* x, const Q4Block& block) {
  const vf d = set(float_of(block.d)), eight = set(8.0f);
  for (int i = 0; i < 16; i += lanes) {
    const vi q = load_bytes(block.q + i);
    store(x + i, mul(d, sub(to_float(and_int(q, 15)), eight)));
    store(x + 16 + i, mul(d, sub(to_float(shift_down4(q)), eight)));
  }
}

inline void copy_floats(float* dst, const float* src, int64_t n) {
  over(
      n, [&](int64_t i) { store(dst + i, load(src + i)); },
      [&](int64_t i, int64_t left) { store_n(dst + i, load_n(src + i, left), left); });
}

void store_rows(void* dst, RowType type, const float* src, int64_t n) {
  auto* halves = static_cast<uint16_t*>(dst);
  switch (type) {
    case RowType::F32:
      return copy_floats(static_cast<float*>(dst), src, n);
    case RowType::F16:
      return over(
          n, [&](int64_t i) { store_half(halves + i, load(src + i)); },
          [&](int64_t i, int64_t left) { store_half_n(halves + i, load_n(src + i, left), left); });
    case RowType::Q8_0:
      for (int64_t b = 0; b < n / 32; ++b) store_q8(static_cast<Q8Block*>(dst)[b], src + b * 32);
      return;
    case RowType::Q4_0:
      for (int64_t b = 0; b < n / 32; ++b) store_q4(static_cast<Q4Block*>(dst)[b], src + b * 32);
      return;
  }
}

void load_rows(float* dst, const void* src, RowType type, int64_t n) {
  const auto* halves = static_cast<const uint16_t*>(src);
  switch (type) {
    case RowType::F32:
      return copy_floats(dst, static_cast<const float*>(src), n);
    case RowType::F16:
      return over(
          n, [&](int64_t i) { store(dst + i, load_half(halves + i)); },
          [&](int64_t i, int64_t left) { store_n(dst + i, load_half_n(halves + i, left), left); });
    case RowType::Q8_0:
      for (int64_t b = 0; b < n / 32; ++b) load_q8(dst + b * 32, static_cast<const Q8Block*>(src)[b]);
      return;
    case RowType::Q4_0:
      for (int64_t b = 0; b < n / 32; ++b) load_q4(dst + b * 32, static_cast<const Q4Block*>(src)[b]);
      return;
  }
}

}  // namespace
}  // namespace foveal::FOVEAL_SIMD
