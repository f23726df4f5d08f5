// UTF-8 decoding, character classes and NFC.
#include "engine/text/unicode.h"

#include "tests/check.h"

using namespace foveal;

namespace {

std::vector<uint32_t> decode_all(std::string_view text) {
  std::vector<uint32_t> out;
  for (const char* p = text.data(); p < text.data() + text.size();) {
    const Char c = decode_char(p, text.data() + text.size());
    out.push_back(c.valid ? c.code_point : 0xFFFF0000u | static_cast<unsigned char>(*p));
    p += c.bytes;
  }
  return out;
}
constexpr uint32_t bad(unsigned byte) {
  return 0xFFFF0000u | byte;
}
using Codes = std::vector<uint32_t>;

}  // namespace

TEST(decodes_strictly) {
  CHECK_EQ(decode_all("a\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x98\x80"), (Codes{'a', 0xE9, 0x4F60, 0x1F600}));
  CHECK_EQ(decode_all("\x80x"), (Codes{bad(0x80), 'x'}));
  CHECK_EQ(decode_all("\xC0\xAF"), (Codes{bad(0xC0), bad(0xAF)}));                 // overlong
  CHECK_EQ(decode_all("\xE0\x80\xAF"), (Codes{bad(0xE0), bad(0x80), bad(0xAF)}));  // overlong
  CHECK_EQ(decode_all("\xED\xA0\x80"), (Codes{bad(0xED), bad(0xA0), bad(0x80)}));  // surrogate
  CHECK_EQ(decode_all("\xF4\x90\x80\x80").size(), 4u);                             // above U+10FFFF
  CHECK_EQ(decode_all("\xF4\x8F\xBF\xBF"), (Codes{0x10FFFF}));
  CHECK_EQ(decode_all("\xE4\xBD"), (Codes{bad(0xE4), bad(0xBD)}));  // cut off
  CHECK_EQ(decode_all(std::string_view("\0a", 2)), (Codes{0, 'a'}));
}

TEST(every_code_point_round_trips) {
  int wrong = 0;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    const Char back = decode_char(text.data(), text.data() + text.size());
    wrong += !back.valid || back.code_point != c || back.bytes != text.size();
  }
  CHECK_EQ(wrong, 0);
}

TEST(classes) {
  CHECK_EQ(int{char_class('a')}, class_letter | class_lower);
  CHECK_EQ(int{char_class('Z')}, class_letter | class_upper);
  CHECK_EQ(int{char_class('7')}, int{class_number});
  CHECK_EQ(int{char_class('_')}, int{class_punctuation});
  CHECK_EQ(int{char_class('$')}, int{class_symbol});
  CHECK_EQ(int{char_class(0x3000)}, int{class_space});
  CHECK_EQ(int{char_class(0x01C5)}, class_letter | class_upper);  // title case
  CHECK_EQ(int{char_class(0x4F60)}, int{class_letter});
  CHECK_EQ(int{char_class(0x0301)}, int{class_mark});
  CHECK_EQ(int{char_class(0x216B)}, int{class_number});
  CHECK_EQ(int{char_class(0x1F600)}, int{class_symbol});
  CHECK_EQ(int{char_class(0x1D400)}, class_letter | class_upper);
  CHECK_EQ(int{char_class(0x10FFFF)}, 0);
  CHECK_EQ(int{char_class(0x200B)}, 0);
}

TEST(incomplete_tails) {
  CHECK_EQ(incomplete_tail("abc"), 0u);
  CHECK_EQ(incomplete_tail(""), 0u);
  CHECK_EQ(incomplete_tail("a\xE4"), 1u);
  CHECK_EQ(incomplete_tail("a\xE4\xBD"), 2u);
  CHECK_EQ(incomplete_tail("a\xE4\xBD\xA0"), 0u);
  CHECK_EQ(incomplete_tail("\xF0\x9F\x98"), 3u);
  CHECK_EQ(incomplete_tail("\x80\x80\x80\x80"), 0u);  // never completes
  CHECK_EQ(incomplete_tail("\xE0\x80"), 0u);          // overlong: never completes
  CHECK_EQ(incomplete_tail("\xFF"), 0u);
}

TEST(replaces_maximal_parts) {
  const std::string r = "\xEF\xBF\xBD";
  CHECK_EQ(replace_invalid_utf8("ok \xC3\xA9"), "ok \xC3\xA9");
  CHECK_EQ(replace_invalid_utf8("\xF0\x9F\x98"
                                "a"),
           r + "a");
  CHECK_EQ(replace_invalid_utf8("\xE0\x80\xAF"), r + r + r);
  CHECK_EQ(replace_invalid_utf8("\xED\xA0\x80"), r + r + r);
  CHECK_EQ(replace_invalid_utf8("\x80\xFF"), r + r);
}

TEST(nfc_composes_orders_and_leaves) {
  CHECK_EQ(nfc("plain"), "plain");
  CHECK_EQ(nfc("e\xCC\x81"), "\xC3\xA9");                                 // e + acute
  CHECK_EQ(nfc("o\xCC\x88\xCC\xA3"), "\xE1\xBB\x8D\xCC\x88");             // dot below comes first
  CHECK_EQ(nfc("\xE2\x84\xAB"), "\xC3\x85");                              // Angstrom sign
  CHECK_EQ(nfc("\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8"), "\xEA\xB0\x81");  // Hangul L V T
  CHECK_EQ(nfc("\xEA\xB0\x80\xE1\x86\xA8"), "\xEA\xB0\x81");              // Hangul LV T
  CHECK_EQ(nfc("\xE0\xA5\x98"), "\xE0\xA4\x95\xE0\xA4\xBC");              // excluded from composition
  CHECK_EQ(nfc("\xCC\x81"
               "a"),
           "\xCC\x81"
           "a");  // a mark without a base
  CHECK_EQ(nfc("q\xCC\x87\xCC\xA3"), "q\xCC\xA3\xCC\x87");
  CHECK_EQ(nfc("a\xCC\xA8\xFF\xCC\x81"), "\xC4\x85\xFF\xCC\x81");  // an invalid byte separates
  CHECK_EQ(nfc("\xE2\x84\xA6\xF0\x9F\x98\x80"), "\xCE\xA9\xF0\x9F\x98\x80");
}
