// Cuts text into the words that byte-level BPE merges inside of: the published split patterns, as hand-written matchers
// over code points in linear time.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "engine/text/unicode.h"

namespace foveal {

// Bytes of the match that begins at text[0] (text isn't empty), 0 for none. The end of `text` is the end of the input
// for look-ahead.
using Matcher = size_t (*)(std::string_view text);

// What a `tokenizer.ggml.pre` name stands for.
struct PreTokenizer {
  std::string_view names;           // all names of the pattern, separated by spaces
  std::span<const Matcher> stages;  // each cuts the pieces of the one before into its matches and what lies between
  bool nfc;                         // text is brought to NFC first
  bool ignore_merges;               // a word that is a token is taken whole
  bool add_bos;                     // when the file doesn't say
};

// nullptr for an unknown name.
const PreTokenizer* find_pre_tokenizer(std::string_view name);
std::string pre_tokenizer_names();  // all known names, separated by spaces

// Calls emit(piece) for every piece of `text`, in order; together they are the text.
template <class Emit>
void split_words(std::span<const Matcher> stages, std::string_view text, const Emit& emit) {
  if (stages.empty()) return emit(text);
  const auto deeper = [&](size_t begin, size_t end) {
    if (end > begin) split_words(stages.subspan(1), text.substr(begin, end - begin), emit);
  };
  size_t gap = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t n = stages[0](text.substr(at));
    if (n == 0) {
      at += decode_char(text.data() + at, text.data() + text.size()).bytes;
      continue;
    }
    deeper(gap, at);
    deeper(at, at + n);
    gap = at += n;
  }
  deeper(gap, text.size());
}

}  // namespace foveal
