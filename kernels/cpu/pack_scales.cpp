// The scales of a panel: in a first pass each row's unit is found, in a second the scales are rounded in it.
// Vectors of 16 bytes, which every machine has.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/pack_detail.h"
#include "kernels/cpu/scalar/half.h"

namespace foveal::pack {

namespace {

constexpr int kMostSubs = kChunk / 16;

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
// Types whose blocks of 32 begin with half-precision d, and m after it if the type has mins.
bool has_half_scales(TensorType type) {
  return type == TensorType::Q4_0 || type == TensorType::Q4_1 || type == TensorType::Q5_0 || type == TensorType::Q5_1 ||
         type == TensorType::Q8_0 || type == TensorType::IQ4_NL;
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
void pack_other_scales(const Rows& w, int sub, bool mins, Units& units, uint16_t* d, uint16_t* m) {
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

}  // namespace

void pack_scales(const Rows& w, int sub, bool mins, float* to, uint16_t* d, uint16_t* m) {
  Units units;
  if (has_half_scales(w.type)) {
    pack_half_scales(w, mins, units, d, m);
  } else {
    pack_other_scales(w, sub, mins, units, d, m);
  }
  std::memcpy(to, units.of, sizeof units.of);
}

}  // namespace foveal::pack
