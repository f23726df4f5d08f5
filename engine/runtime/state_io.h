// Session files as bytes: a little-endian writer, and a reader in which a count is legal only if its bytes are there.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "engine/core/error.h"

namespace foveal {

class StateWriter {
 public:
  template <class T>
  void value(T v) {
    static_assert(std::is_arithmetic_v<T>);
    bytes(&v, sizeof v);
  }
  template <class T>
  void list(std::span<const T> items) {
    static_assert(std::is_trivially_copyable_v<T>);
    value<uint64_t>(items.size());
    bytes(items.data(), items.size_bytes());
  }
  void text(const std::string& s) { list(std::span<const char>(s)); }
  void bytes(const void* p, size_t n) {
    if (n == 0) return;
    const auto* b = static_cast<const uint8_t*>(p);
    data_.insert(data_.end(), b, b + n);
  }
  std::vector<uint8_t>& data() { return data_; }

 private:
  std::vector<uint8_t> data_;
};

class StateReader {
 public:
  StateReader(std::span<const uint8_t> data, std::string path) : data_(data), path_(std::move(path)) {}
  template <class T>
  T value() {
    static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
    T v;
    std::memcpy(&v, take(sizeof v), sizeof v);
    return v;
  }
  // An integer inside [min, max].
  int64_t number(const char* what, int64_t min, int64_t max) {
    const auto v = value<int64_t>();
    if (v < min || v > max) bad(what, v, min, max);
    return v;
  }
  template <class T>
  std::vector<T> list(const char* what, uint64_t max_items) {
    const auto n = value<uint64_t>();
    if (n > max_items || n > left() / sizeof(T)) bad(what, static_cast<int64_t>(n), 0, static_cast<int64_t>(max_items));
    std::vector<T> items(n);
    if (n > 0) std::memcpy(items.data(), take(n * sizeof(T)), n * sizeof(T));
    return items;
  }
  std::string text(const char* what, uint64_t max_bytes) {
    const auto chars = list<char>(what, max_bytes);
    return {chars.begin(), chars.end()};
  }
  const uint8_t* take(uint64_t n) {
    if (n > left())
      fail(ErrorCode::file_format, path_, ": at offset ", at_, ": expected ", n, " more bytes, found ", left());
    const uint8_t* p = data_.data() + at_;
    at_ += n;
    return p;
  }
  uint64_t left() const { return data_.size() - at_; }
  [[noreturn]] void bad(const char* what, int64_t found, int64_t min, int64_t max) const {
    fail(ErrorCode::file_format, path_, ": at offset ", at_, ": ", what, ": found ", found, ", expected ", min, " to ",
         max);
  }
  const std::string& path() const { return path_; }

 private:
  std::span<const uint8_t> data_;
  uint64_t at_ = 0;
  std::string path_;
};

// Writes a file so that a crash leaves the old one or the new one: temporary beside it, fsync, rename, fsync of the
// folder. Errors: io with the path and the system's reason; the temporary is removed.
void write_file_atomically(const std::string& path, std::span<const uint8_t> bytes);

}  // namespace foveal
