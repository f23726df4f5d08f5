// A small xorshift generator with the choices that fuzzing needs; the same seed gives the same inputs everywhere.
#pragma once

#include <cstdint>
#include <cstdio>
#include <iterator>

// Ends the run as a finding, naming the condition.
#define FUZZ_REQUIRE(condition)                                                          \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: doesn't hold: %s\n", __FILE__, __LINE__, #condition); \
      __builtin_trap();                                                                  \
    }                                                                                    \
  } while (0)

namespace fuzz {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 0x1234567u) {
    if (state_ == 0) state_ = 1;
  }
  uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ * 0x2545F4914F6CDD1Du;
  }
  // 0 to n - 1; 0 when n is 0.
  uint64_t below(uint64_t n) { return n ? (next() >> 11) % n : 0; }
  bool one_in(uint64_t n) { return below(n) == 0; }
  template <class Container>
  auto& pick(Container& items) {
    return items[below(std::size(items))];
  }
  // Numbers at which arithmetic goes wrong, small ones, and any.
  uint64_t interesting() {
    switch (below(5)) {
      case 0:
        return below(20);
      case 1:
        return uint64_t{1} << below(64);
      case 2:
        return (uint64_t{1} << below(64)) - 1 - below(3);
      case 3:
        return ~below(40);
      default:
        return next() >> below(64);
    }
  }

 private:
  uint64_t state_;
};

}  // namespace fuzz
