// The tokenizer.ggml.* keys of a GGUF, checked: token texts, kinds, scores, special ids.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/gguf/gguf.h"
#include "engine/text/hash_tables.h"

namespace foveal {

enum class TokenKind : uint8_t {
  undefined = 0,
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6
};

struct Vocabulary {
  std::string file;  // for messages
  StringPool text;   // as the file spells the tokens
  std::vector<TokenKind> kind;
  std::vector<float> score;          // empty when the file has none
  std::vector<uint8_t> ends_answer;  // per token: end of generation
  std::optional<int32_t> bos, eos, unknown;
  std::optional<bool> add_bos, add_space_prefix;  // where the file says
  std::vector<int32_t> suppressed;
  std::vector<std::string> warnings;
  std::unique_ptr<const StringTable> by_text;

  int32_t size() const { return static_cast<int32_t>(text.size()); }
  TokenKind kind_of(int32_t id) const { return kind[static_cast<size_t>(id)]; }
  std::string_view text_of(int32_t id) const { return text[static_cast<size_t>(id)]; }
  std::optional<int32_t> find(std::string_view token_text) const;

  // Errors: file_format for a missing list, lists of different lengths, ids out of range, unknown kinds, NaN scores,
  // a byte token that isn't <0xNN>.
  static std::unique_ptr<Vocabulary> load(const Gguf& file, bool is_spm);
};

constexpr std::string_view space_mark = "\xE2\x96\x81";  // U+2581, SentencePiece's space
std::string spaces_for_marks(std::string_view text);

// The byte that "<0xNN>" names; nullopt for anything else.
std::optional<uint8_t> parse_byte_token(std::string_view text);

}  // namespace foveal
