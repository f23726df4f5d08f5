// Reads little-endian fields from bytes that nobody has checked yet: every step is held against what is really there,
// and every error says where in the file it happened.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "engine/core/error.h"

namespace foveal::gguf {

static_assert(std::endian::native == std::endian::little, "GGUF fields are read in place as little-endian");

// "0x1a40"
std::string hex(uint64_t value);

// "file.gguf: at offset 0x1a40: "
std::string at_offset(const std::string& file, uint64_t offset);

// Well-formed UTF-8 without NUL: no overlong forms, surrogates or code points above U+10FFFF.
bool is_clean_utf8(std::string_view text);

class Cursor {
 public:
  // `file` stands in messages and must outlive the cursor.
  Cursor(std::span<const uint8_t> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  uint64_t position() const { return position_; }
  uint64_t left() const { return bytes_.size() - position_; }
  const uint8_t* here() const { return bytes_.data() + position_; }

  // What is being read ("key 'general.name'"), for messages; empty for none.
  void set_subject(std::string subject) { subject_ = std::move(subject); }

  // A number or an enum's integer; `what` names the field if the file ends in it.
  template <class T>
  T read(const char* what) {
    static_assert(std::is_arithmetic_v<T>);
    need(sizeof(T), what);
    T value;
    std::memcpy(&value, here(), sizeof(T));
    position_ += sizeof(T);
    return value;
  }
  // u64 length and that many bytes, as a view into the file.
  std::string_view read_string(const char* what);
  // `count` items of `bytes_each` (at least 1) bytes; the product is never formed before the count is known to fit.
  void skip(uint64_t count, uint64_t bytes_each, const char* what);

  // Throws with file, offset and subject in front.
  template <class... Args>
  [[noreturn]] void reject(ErrorCode code, uint64_t offset, const Args&... args) const {
    fail(code, at_offset(file_, offset), subject_, subject_.empty() ? "" : ": ", args...);
  }

 private:
  void need(uint64_t count, const char* what) const {
    if (count > left()) truncated(count, what);
  }
  [[noreturn]] void truncated(uint64_t count, const char* what) const;

  std::span<const uint8_t> bytes_;
  const std::string& file_;
  std::string subject_;
  uint64_t position_ = 0;
};

}  // namespace foveal::gguf
