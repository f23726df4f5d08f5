// Unicode Normalization Form C: decompose, order by combining class, compose (UAX #15).
#include <algorithm>
#include <bitset>
#include <unordered_map>
#include <vector>

#include "engine/text/unicode.h"
#include "engine/text/unicode_tables.h"

namespace foveal {
namespace {

constexpr uint32_t hangul_base = 0xAC00, lead_base = 0x1100, vowel_base = 0x1161, tail_base = 0x11A7;
constexpr uint32_t leads = 19, vowels = 21, tails = 28, hangul_count = leads * vowels * tails;
constexpr uint32_t no_composition = 1u << 31;

uint8_t combining_class(uint32_t c) {
  return c < 0x300 ? 0 : value_in_runs(unicode_combining_runs, unicode_combining_runs_size, c);
}

struct Data {
  std::unordered_map<uint32_t, const uint32_t*> rows;  // code point -> its row of the decomposition table
  std::unordered_map<uint64_t, uint32_t> pairs;        // first << 32 | second -> composed
  std::bitset<0x30000> unstable;                       // may change, or may join with what stands before

  Data() {
    for (unsigned i = 0; i < unicode_decompositions_size; i += 3) {
      const uint32_t* row = unicode_decompositions + i;
      rows.emplace(row[0], row);
      if (row[2] == 0 || (row[2] & no_composition) != 0) {
        unstable.set(row[0]);
      } else {
        pairs.emplace(uint64_t{row[1]} << 32 | row[2], row[0]);
        unstable.set(row[2]);
      }
    }
    for (uint32_t c = 0x300; c < unstable.size(); ++c)
      if (combining_class(c) != 0) unstable.set(c);
    for (uint32_t c = vowel_base; c < vowel_base + vowels; ++c) unstable.set(c);
    for (uint32_t c = tail_base + 1; c < tail_base + tails; ++c) unstable.set(c);
  }
};

const Data& data() {
  static const Data d;
  return d;
}

void decompose(uint32_t c, std::vector<uint32_t>& out) {
  if (c - hangul_base < hangul_count) {
    const uint32_t s = c - hangul_base;
    out.push_back(lead_base + s / (vowels * tails));
    out.push_back(vowel_base + s / tails % vowels);
    if (s % tails != 0) out.push_back(tail_base + s % tails);
    return;
  }
  const auto row = data().rows.find(c);
  if (row == data().rows.end()) {
    out.push_back(c);
    return;
  }
  decompose(row->second[1], out);  // decompositions of the standard are at most a few levels deep
  if (row->second[2] != 0) decompose(row->second[2] & ~no_composition, out);
}

// The character that first + second compose to, 0 for none.
uint32_t compose(uint32_t first, uint32_t second) {
  if (first - lead_base < leads && second - vowel_base < vowels)
    return hangul_base + ((first - lead_base) * vowels + (second - vowel_base)) * tails;
  if (first - hangul_base < hangul_count && (first - hangul_base) % tails == 0 && second - tail_base - 1 < tails - 1)
    return first + (second - tail_base);
  const auto pair = data().pairs.find(uint64_t{first} << 32 | second);
  return pair == data().pairs.end() ? 0 : pair->second;
}

// Normalises one stretch: a starter and what may join it.
void normalise(const std::vector<uint32_t>& stretch, std::string& out) {
  std::vector<uint32_t> chars;
  for (const uint32_t c : stretch) decompose(c, chars);
  for (size_t i = 0; i < chars.size();) {
    size_t end = i + 1;
    if (combining_class(chars[i]) != 0) {
      while (end < chars.size() && combining_class(chars[end]) != 0) ++end;
      std::stable_sort(chars.begin() + static_cast<ptrdiff_t>(i), chars.begin() + static_cast<ptrdiff_t>(end),
                       [](uint32_t a, uint32_t b) { return combining_class(a) < combining_class(b); });
    }
    i = end;
  }
  size_t kept = 0, starter = SIZE_MAX;
  int last_class = -1;  // of the last character kept after the starter
  for (const uint32_t c : chars) {
    const int cc = combining_class(c);
    const uint32_t joined = starter != SIZE_MAX && last_class < cc ? compose(chars[starter], c) : 0;
    if (joined != 0) {
      chars[starter] = joined;
      continue;
    }
    if (cc == 0) starter = kept;
    last_class = cc == 0 ? -1 : cc;
    chars[kept++] = c;
  }
  for (size_t i = 0; i < kept; ++i) append_utf8(out, chars[i]);
}

}  // namespace

std::string nfc(std::string_view text) {
  const auto high = [](char c) { return static_cast<unsigned char>(c) >= 0xCC; };  // leads of U+0300 and above
  if (std::none_of(text.begin(), text.end(), high)) return std::string(text);
  std::string out;
  out.reserve(text.size());
  const auto is_unstable = [](const Char& c) {
    return c.valid && c.code_point < 0x30000 && data().unstable[c.code_point];
  };
  std::vector<uint32_t> stretch;
  const char* end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const Char first = decode_char(p, end);
    const char* next = p + first.bytes;
    const bool joins = next < end && is_unstable(decode_char(next, end));
    if (!first.valid || !(joins || is_unstable(first))) {
      out.append(p, first.bytes);
      p = next;
      continue;
    }
    stretch.assign(1, first.code_point);
    for (p = next; p < end; p += decode_char(p, end).bytes) {
      const Char c = decode_char(p, end);
      if (!is_unstable(c)) break;
      stretch.push_back(c.code_point);
    }
    normalise(stretch, out);
  }
  return out;
}

}  // namespace foveal
