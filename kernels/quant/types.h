// The ggml tensor types that this engine reads: ids as in the file, elements and bytes of a block.
#pragma once

#include <cstdint>

namespace foveal {

enum class TensorType : int32_t {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q5_0 = 6,
  Q5_1 = 7,
  Q8_0 = 8,
  Q2_K = 10,
  Q3_K = 11,
  Q4_K = 12,
  Q5_K = 13,
  Q6_K = 14,
  IQ2_XXS = 16,
  IQ2_XS = 17,
  IQ3_XXS = 18,
  IQ1_S = 19,
  IQ4_NL = 20,
  IQ3_S = 21,
  IQ2_S = 22,
  IQ4_XS = 23,
  IQ1_M = 29,
  BF16 = 30,
  TQ1_0 = 34,
  TQ2_0 = 35,
  MXFP4 = 39,
};

struct TypeTraits {
  const char* name;        // as ggml prints it
  int64_t block_elements;  // elements a block
  int64_t block_bytes;     // bytes a block
};

// nullptr when `id` is not a type that this engine reads.
const TypeTraits* type_traits(int32_t id);
inline const TypeTraits& traits_of(TensorType type) {
  return *type_traits(static_cast<int32_t>(type));
}

// Name of any ggml type id, known to this engine or not ("IQ1_S", "type 77").
const char* ggml_type_name(int32_t id);

}  // namespace foveal
