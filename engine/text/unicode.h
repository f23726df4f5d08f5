// Code points and their classes: strict UTF-8 decoding, the properties that pre-tokenizers ask for, NFC.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace foveal {

// Bits of char_class(); the general categories behind each.
enum CharClass : uint8_t {
  class_letter = 1,       // L
  class_number = 2,       // N
  class_mark = 4,         // M
  class_punctuation = 8,  // P
  class_symbol = 16,      // S
  class_space = 32,       // White_Space
  class_upper = 64,       // Lu, Lt (letter too)
  class_lower = 128,      // Ll (letter too)
};

const uint8_t* bmp_classes();  // [65536], built once from the generated table
uint8_t astral_class(uint32_t code_point);

inline uint8_t char_class(uint32_t code_point) {
  return code_point < 0x10000 ? bmp_classes()[code_point] : astral_class(code_point);
}

struct Char {
  uint32_t code_point;  // U+FFFD for a byte that begins no valid sequence
  uint32_t bytes;       // 1 to 4; 1 for an invalid byte
  bool valid;
};

// The character at `p` (p < end). Overlong forms, surrogates and values past U+10FFFF are invalid.
Char decode_multibyte(const char* p, const char* end);
inline Char decode_char(const char* p, const char* end) {
  const auto byte = static_cast<unsigned char>(*p);
  return byte < 0x80 ? Char{byte, 1, true} : decode_multibyte(p, end);
}

void append_utf8(std::string& out, uint32_t code_point);

// Bytes at the end of `text` that begin a character but don't finish it (0 to 3).
size_t incomplete_tail(std::string_view text);

// `text` with each maximal invalid stretch of a character replaced by U+FFFD (as Python's errors="replace").
std::string replace_invalid_utf8(std::string_view text);

// Unicode Normalization Form C (UAX #15). Invalid bytes stay as they are and separate what stands around them.
std::string nfc(std::string_view text);

}  // namespace foveal
