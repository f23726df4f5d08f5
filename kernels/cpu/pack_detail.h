// What packing a panel's codes and packing its scales share.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/matmul.h"
#include "kernels/quant/dequant.h"

namespace foveal::pack {

constexpr int kRows = static_cast<int>(kPanelRows);
constexpr int64_t kChunk = 256;  // inputs at a time: a block of the K types, eight of the others

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

template <class T>
const uint8_t* bytes_of(const T& object) {
  return reinterpret_cast<const uint8_t*>(&object);
}

struct Rows {  // of a tensor in the file, for one panel
  TensorType type;
  const TypeTraits& traits;
  const uint8_t* data;
  int64_t bytes;  // of a row
  int n;
  int64_t cols;
};

// units [16], d and m [sub-block][row] as matmul.h has them; `sub`: inputs of a sub-block.
void pack_scales(const Rows& w, int sub, bool mins, float* units, uint16_t* d, uint16_t* m);
// to[k * 16 + row] = number k of row, for 16 rows of n 16-bit numbers.
void turn_halves(const uint8_t* rows, int64_t row_bytes, int64_t n, uint16_t* to);

}  // namespace foveal::pack
