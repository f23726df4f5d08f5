// UTF-8 decoding and character classes; see unicode.h. Normalisation is in nfc.cpp.
#include "engine/text/unicode.h"

#include <algorithm>
#include <vector>

#include "engine/text/unicode_tables.h"

namespace foveal {
namespace {

struct BmpClasses {
  uint8_t of[0x10000];
  BmpClasses() {
    for (unsigned i = 0; i < unicode_class_runs_size; ++i) {
      const uint32_t begin = unicode_class_runs[i] >> 8;
      const uint32_t next = i + 1 < unicode_class_runs_size ? unicode_class_runs[i + 1] >> 8 : 0x110000;
      if (begin >= 0x10000) break;
      std::fill(of + begin, of + std::min<uint32_t>(next, 0x10000), static_cast<uint8_t>(unicode_class_runs[i]));
    }
  }
};

}  // namespace

const uint8_t* bmp_classes() {
  static const BmpClasses classes;
  return classes.of;
}

uint8_t value_in_runs(const uint32_t* runs, unsigned n, uint32_t code_point) {
  const uint32_t* after = std::upper_bound(runs, runs + n, code_point << 8 | 0xFF);
  return static_cast<uint8_t>(after[-1]);  // the first run starts at 0
}

uint8_t astral_class(uint32_t code_point) {
  return value_in_runs(unicode_class_runs, unicode_class_runs_size, code_point);
}

Char decode_multibyte(const char* p, const char* end) {
  constexpr Char invalid{0xFFFD, 1, false};
  const auto byte = [&](uint32_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(p[i])); };
  const uint32_t lead = byte(0);
  const uint32_t n = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || end - p < static_cast<ptrdiff_t>(n)) return invalid;
  uint32_t code_point = lead & (0x7Fu >> n);
  for (uint32_t i = 1; i < n; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return invalid;
    code_point = code_point << 6 | (byte(i) & 0x3F);
  }
  const bool too_long = (n == 3 && code_point < 0x800) || (n == 4 && code_point < 0x10000);
  if (too_long || code_point > 0x10FFFF || (code_point >= 0xD800 && code_point < 0xE000)) return invalid;
  return {code_point, n, true};
}

void append_utf8(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
    return;
  }
  const int tail = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  constexpr uint32_t lead[4] = {0, 0xC0, 0xE0, 0xF0};
  out += static_cast<char>(lead[tail] | c >> (6 * tail));
  for (int i = tail - 1; i >= 0; --i) out += static_cast<char>(0x80 | (c >> (6 * i) & 0x3F));
}

// Length of the longest prefix of [p, end) that begins some valid character: 1 where none does.
static size_t maximal_subpart(const char* p, const char* end) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(p[i]); };
  const unsigned lead = byte(0);
  const size_t n = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4) return 1;
  size_t i = 1;
  for (; i < n && p + i < end; ++i) {
    unsigned low = 0x80, high = 0xBF;
    if (i == 1 && lead == 0xE0) low = 0xA0;
    if (i == 1 && lead == 0xED) high = 0x9F;
    if (i == 1 && lead == 0xF0) low = 0x90;
    if (i == 1 && lead == 0xF4) high = 0x8F;
    if (byte(i) < low || byte(i) > high) break;
  }
  return i;
}

size_t incomplete_tail(std::string_view text) {
  const char* end = text.data() + text.size();
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(end[-static_cast<ptrdiff_t>(back)]);
    if ((byte & 0xC0) == 0x80) continue;  // inside a character: look further back
    const size_t n = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC2 ? 2 : 1;
    return n > back && byte <= 0xF4 && maximal_subpart(end - back, end) == back ? back : 0;
  }
  return 0;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  const char* end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const Char c = decode_char(p, end);
    if (c.valid) {
      out.append(p, c.bytes);
      p += c.bytes;
    } else {
      out += "\xEF\xBF\xBD";
      p += maximal_subpart(p, end);
    }
  }
  return out;
}

}  // namespace foveal
