// The split patterns, named after the models that brought them. L, N, M, P, S below are Unicode's general categories.
#include "engine/text/pre_tokenizer.h"

#include <algorithm>

namespace foveal {
namespace {

constexpr uint8_t L = class_letter, N = class_number, M = class_mark, P = class_punctuation, S = class_symbol,
                  space = class_space;

// A position in the text, with what stands there.
struct Cursor {
  const char* p;
  const char* end;
  Char c{0, 0, false};
  uint8_t is = 0;  // class bits of c
  explicit Cursor(std::string_view text) : p(text.data()), end(text.data() + text.size()) { read(); }
  void read() {
    if (p == end) return;
    c = decode_char(p, end);
    is = char_class(c.code_point);
  }
  bool done() const { return p == end; }
  void next() {
    p += c.bytes;
    read();
  }
  bool at(uint8_t classes) const { return !done() && (is & classes) != 0; }
  bool at_other_than(uint8_t classes) const { return !done() && (is & classes) == 0; }
  bool newline() const { return !done() && (c.code_point == '\r' || c.code_point == '\n'); }
};

size_t length(const Cursor& from, const Cursor& to) {
  return static_cast<size_t>(to.p - from.p);
}

Cursor skip(Cursor at, uint8_t classes, size_t limit = SIZE_MAX) {
  for (; limit > 0 && at.at(classes); --limit) at.next();
  return at;
}
Cursor skip_others(Cursor at, uint8_t classes) {
  while (at.at_other_than(classes)) at.next();
  return at;
}

// 's 't 're 've 'm 'll 'd; without case, long s (U+017F) is an s too.
size_t contraction(std::string_view text, bool any_case) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  const auto letter = [&](size_t i) {
    const char c = i < text.size() ? text[i] : '\0';
    return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  const char a = letter(1), b = letter(2);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
  return any_case && text.substr(1, 2) == "\xC5\xBF" ? 3 : 0;
}

// `newlines`: \s*[\r\n]+ first. Then \s+(?!\S), then \s+: a run leaves its last character to the word behind it.
size_t white_space(std::string_view text, bool newlines) {
  const Cursor start(text);
  Cursor at = start, last = start;
  size_t past_newline = 0;
  while (at.at(space)) {
    const bool newline = at.newline();
    last = at;
    at.next();
    if (newline) past_newline = length(start, at);
  }
  if (newlines && past_newline > 0) return past_newline;
  if (at.done() || length(start, last) == 0) return length(start, at);
  return length(start, last);
}

// ` ?[^excluded]+[tail]*`, tail = \r \n and, if asked, a slash.
size_t symbols(std::string_view text, uint8_t excluded, bool slash) {
  const Cursor start(text);
  Cursor at = start;
  if (text[0] == ' ') at.next();
  if (!at.at_other_than(excluded)) return 0;
  at = skip_others(at, excluded);
  while (at.newline() || (slash && !at.done() && at.c.code_point == '/')) at.next();
  return length(start, at);
}

// GPT-2: contractions | ?L+ | ?N+ | ?[^\s L N]+ | white space
size_t match_gpt2(std::string_view text) {
  if (const size_t n = contraction(text, false)) return n;
  const Cursor start(text);
  Cursor at = start;
  if (text[0] == ' ') at.next();
  if (at.at(L)) return length(start, skip(at, L));
  if (at.at(N)) return length(start, skip(at, N));
  if (at.at_other_than(space | L | N)) return length(start, skip_others(at, space | L | N));
  return white_space(text, false);
}

// `[^\r\n excluded]?[letters]+`; every letter class is a subset of what may stand in front, or excluded from it.
size_t prefixed_word(std::string_view text, uint8_t excluded, uint8_t letters) {
  const Cursor start(text);
  Cursor at = start;
  if (!at.at(letters)) {
    if (at.at(excluded) || at.newline()) return 0;
    at.next();
  }
  return at.at(letters) ? length(start, skip(at, letters)) : 0;
}

// The part of Llama-3's pattern behind its words: N{1,digits} | symbols | white space.
size_t numbers_symbols_space(std::string_view text, size_t digits, uint8_t not_symbol, bool slash) {
  const Cursor start(text);
  if (start.at(N)) return length(start, skip(start, N, digits));
  if (const size_t n = symbols(text, not_symbol, slash)) return n;
  return white_space(text, true);
}

template <size_t digits>
size_t match_llama3(std::string_view text) {  // Llama-3: 3 digits; Qwen2: 1
  if (const size_t n = contraction(text, true)) return n;
  if (const size_t n = prefixed_word(text, L | N, L)) return n;
  return numbers_symbols_space(text, digits, space | L | N, false);
}

size_t match_qwen35(std::string_view text) {  // Qwen2 with marks among the letters
  if (const size_t n = contraction(text, true)) return n;
  if (const size_t n = prefixed_word(text, L | N, L | M)) return n;
  return numbers_symbols_space(text, 1, space | L | M | N, false);
}

// The two word shapes of tekken and GPT-4o: upper = Lu Lt Lm Lo M, lower = Ll Lm Lo M.
bool upperish(const Cursor& at) {
  return at.at(L | M) && (at.is & class_lower) == 0;
}
bool lowerish(const Cursor& at) {
  return at.at(L | M) && (at.is & class_upper) == 0;
}

// upper* lower+ (`lower_needed`) or upper+ lower*, at `at`, which isn't moved when nothing matches.
bool cased_word(Cursor& at, bool lower_needed) {
  Cursor run = at, past_both = at;  // past_both: behind the last character that is upper and lower
  bool any_both = false;
  while (upperish(run)) {
    const bool both = lowerish(run);
    run.next();
    if (both) {
      past_both = run;
      any_both = true;
    }
  }
  const bool any_upper = run.p != at.p;
  if (lowerish(run)) {
    while (lowerish(run)) run.next();
    at = run;
    return true;
  }
  if (lower_needed) {
    if (any_both) at = past_both;  // upper* gives back as far as it must
    return any_both;
  }
  if (any_upper) at = run;
  return any_upper;
}

size_t cased_words(std::string_view text) {
  const Cursor start(text);
  const bool may_lead = start.at_other_than(L | N) && !start.newline();
  for (const bool lower_needed : {true, false}) {
    Cursor at = start;
    at.next();
    if (may_lead && cased_word(at, lower_needed)) return length(start, at);
    at = start;
    if (cased_word(at, lower_needed)) return length(start, at);
  }
  return 0;
}

size_t match_tekken(std::string_view text) {
  if (const size_t n = cased_words(text)) return n;
  return numbers_symbols_space(text, 1, space | L | N, true);
}

size_t match_gpt4o(std::string_view text) {
  if (const size_t n = cased_words(text)) return n + (n < text.size() ? contraction(text.substr(n), true) : 0);
  return numbers_symbols_space(text, 3, space | L | N, true);
}

size_t match_one_number(std::string_view text) {
  const Cursor start(text);
  return length(start, skip(start, N, 1));
}
size_t match_three_numbers(std::string_view text) {
  const Cursor start(text);
  return length(start, skip(start, N, 3));
}
size_t match_numbers(std::string_view text) {
  const Cursor start(text);
  return length(start, skip(start, N));
}
size_t match_three_ascii_digits(std::string_view text) {
  const auto digit = [&](size_t i) { return text[i] >= '0' && text[i] <= '9'; };
  return text.size() >= 3 && digit(0) && digit(1) && digit(2) ? 3 : 0;
}

// Chinese characters and kana.
size_t match_cjk(std::string_view text) {
  const auto cjk = [](const Cursor& at) {
    const uint32_t c = at.c.code_point;
    return !at.done() && ((c >= 0x4E00 && c <= 0x9FA5) || (c >= 0x3040 && c <= 0x30FF));
  };
  const Cursor start(text);
  Cursor at = start;
  while (cjk(at)) at.next();
  return length(start, at);
}

size_t match_deepseek3(std::string_view text) {
  const auto ascii_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const char c = text[0];
  const bool ascii_mark = c > ' ' && c < 0x7F && !ascii_letter(c) && !(c >= '0' && c <= '9');
  if (ascii_mark && text.size() > 1 && ascii_letter(text[1])) {
    size_t n = 2;
    while (n < text.size() && ascii_letter(text[n])) ++n;
    return n;
  }
  if (const size_t n = prefixed_word(text, L | P | S, L | M)) return n;
  const Cursor start(text);
  Cursor at = start;
  if (c == ' ') at.next();
  if (at.at(P | S)) {
    at = skip(at, P | S);
    while (at.newline()) at.next();
    return length(start, at);
  }
  return white_space(text, true);
}

// P and a few ASCII symbols: the first stage of the pattern without a name.
size_t match_punctuation(std::string_view text) {
  const auto mark = [](const Cursor& at) {
    return at.at(P) || (!at.done() && at.c.code_point < 0x80 && at.at(S) && at.c.code_point != '`');
  };
  const Cursor start(text);
  Cursor at = start;
  while (mark(at)) at.next();
  return length(start, at);
}

constexpr Matcher gpt2[] = {match_gpt2};
constexpr Matcher smollm[] = {match_one_number, match_gpt2};
constexpr Matcher llama3[] = {match_llama3<3>};
constexpr Matcher qwen2[] = {match_llama3<1>};
constexpr Matcher qwen35[] = {match_qwen35};
constexpr Matcher tekken[] = {match_tekken};
constexpr Matcher gpt4o[] = {match_gpt4o};
constexpr Matcher deepseek3[] = {match_three_numbers, match_cjk, match_deepseek3};
constexpr Matcher unnamed[] = {match_punctuation, match_gpt2, match_numbers, match_three_ascii_digits};

constexpr PreTokenizer all[] = {
    // names, stages, nfc, ignore_merges, add_bos
    {"default", unnamed, false, false, false},
    {"gpt-2 phi-2 granite-docling exaone4 trillion jais mellum modern-bert gigachat a.x-4.0 jina-es jina-de jina-v2-es "
     "jina-v2-de",
     gpt2, false, false, false},
    {"mpt olmo", gpt2, true, false, false},
    {"smollm starcoder refact codeshell minerva-7b mellum2", smollm, false, false, false},
    {"command-r exaone", smollm, true, false, false},
    {"llama-bpe llama3 llama-v3 pixtral falcon3 falcon-h1 lfm2 midm-2.0 jina-v5-nano", llama3, false, true, true},
    {"smaug-bpe dbrx chatglm-bpe", llama3, false, false, false},
    {"glm4 glm5", llama3, false, true, false},
    {"qwen2 deepseek-r1-qwen megrez kormo f2llmv2", qwen2, true, false, false},
    {"stablelm2 hunyuan solar-open", qwen2, false, false, false},
    {"qwen35", qwen35, true, false, false},
    {"tekken", tekken, false, true, true},
    {"gpt-4o llama4 kanana2 talkie minimax-m2", gpt4o, false, false, false},
    {"deepseek-v3 hunyuan-dense joyai-llm hy_v4", deepseek3, false, false, false},
};

}  // namespace

const PreTokenizer* find_pre_tokenizer(std::string_view name) {
  if (name.empty() || name.find(' ') != name.npos) return nullptr;
  for (const PreTokenizer& pre : all) {
    for (size_t at = 0; at < pre.names.size();) {
      const size_t end = std::min(pre.names.find(' ', at), pre.names.size());
      if (pre.names.substr(at, end - at) == name) return &pre;
      at = end + 1;
    }
  }
  return nullptr;
}

std::string pre_tokenizer_names() {
  std::string names;
  for (const PreTokenizer& pre : all) names += (names.empty() ? "" : " ") + std::string(pre.names);
  return names;
}

}  // namespace foveal
