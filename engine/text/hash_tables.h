// Two open-addressing hash tables for vocabularies: token bytes -> id, and a pair of ids -> a value.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace foveal {

// Many strings in one buffer, by index.
class StringPool {
 public:
  void add(std::string_view s) {
    bytes_ += s;
    ends_.push_back(bytes_.size());
  }
  std::string_view operator[](size_t i) const {
    const uint64_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(bytes_).substr(begin, ends_[i] - begin);
  }
  size_t size() const { return ends_.size(); }

 private:
  std::string bytes_;
  std::vector<uint64_t> ends_;
};

// Finds the index of a string of a pool. The first one added wins.
class StringTable {
 public:
  explicit StringTable(const StringPool& pool) : pool_(&pool), slots_(capacity_for(pool.size()), -1) {}

  // False when an equal string is there already.
  bool add(int32_t index) {
    size_t at = slot((*pool_)[static_cast<size_t>(index)]);
    if (slots_[at] >= 0) return false;
    slots_[at] = index;
    return true;
  }
  int32_t find(std::string_view s) const { return slots_[slot(s)]; }  // -1 for none

  static size_t capacity_for(size_t n) {
    size_t capacity = 16;
    while (capacity < 2 * n) capacity *= 2;
    return capacity;
  }

 private:
  size_t slot(std::string_view s) const {
    const size_t mask = slots_.size() - 1;
    size_t at = std::hash<std::string_view>{}(s)&mask;
    while (slots_[at] >= 0 && (*pool_)[static_cast<size_t>(slots_[at])] != s) at = (at + 1) & mask;
    return at;
  }
  const StringPool* pool_;
  std::vector<int32_t> slots_;
};

// (a, b) -> Value, a and b not negative. Reserved once for at most `n` pairs.
template <class Value>
class PairTable {
 public:
  explicit PairTable(size_t n = 0) : slots_(StringTable::capacity_for(n)) {}

  // The value of the pair, made if absent (`fresh` tells).
  Value& add(int32_t a, int32_t b, bool* fresh) {
    Slot& s = slots_[slot(key(a, b))];
    *fresh = s.key == empty;
    s.key = key(a, b);
    return s.value;
  }
  const Value* find(int32_t a, int32_t b) const {
    const Slot& s = slots_[slot(key(a, b))];
    return s.key == empty ? nullptr : &s.value;
  }

 private:
  static constexpr uint64_t empty = ~uint64_t{0};
  struct Slot {
    uint64_t key = empty;
    Value value{};
  };
  static uint64_t key(int32_t a, int32_t b) {
    return static_cast<uint64_t>(static_cast<uint32_t>(a)) << 32 | static_cast<uint32_t>(b);
  }
  size_t slot(uint64_t k) const {
    uint64_t h = (k ^ (k >> 32)) * 0x9E3779B97F4A7C15u;
    const size_t mask = slots_.size() - 1;
    size_t at = (h ^ (h >> 29)) & mask;
    while (slots_[at].key != empty && slots_[at].key != k) at = (at + 1) & mask;
    return at;
  }
  std::vector<Slot> slots_;
};

}  // namespace foveal
