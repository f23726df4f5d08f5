// Checked arithmetic for every size that comes from a file or a user: nullopt when it wraps.
#pragma once

#include <cstdint>
#include <optional>

namespace foveal {

inline std::optional<uint64_t> checked_add(uint64_t a, uint64_t b) {
  uint64_t r;
  if (__builtin_add_overflow(a, b, &r)) return std::nullopt;
  return r;
}

inline std::optional<uint64_t> checked_mul(uint64_t a, uint64_t b) {
  uint64_t r;
  if (__builtin_mul_overflow(a, b, &r)) return std::nullopt;
  return r;
}

// Rounds up to a multiple of `alignment`, a power of two.
inline std::optional<uint64_t> checked_align(uint64_t a, uint64_t alignment) {
  const auto sum = checked_add(a, alignment - 1);
  if (!sum) return std::nullopt;
  return *sum & ~(alignment - 1);
}

}  // namespace foveal
