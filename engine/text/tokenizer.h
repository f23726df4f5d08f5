// Text <-> token ids from a GGUF's tokenizer.ggml.* keys: byte-level BPE ("gpt2") and SentencePiece ("llama").
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/gguf/gguf.h"

namespace foveal {

// A stretch of prompt text. `special`: control tokens in it are parsed (templates, trusted callers); user text has
// special = false and can never become a control token, even when its bytes spell one.
struct TextPiece {
  std::string text;
  bool special = false;
};

struct Vocabulary;
class SpecialTokens;

class Tokenizer {
 public:
  // Needs only tokenizer.ggml.* keys; general.architecture is ignored. Errors: file_format, unsupported (model or
  // pre-tokenizer not known: names it).
  static std::shared_ptr<const Tokenizer> load(const Gguf& file);
  virtual ~Tokenizer();

  // No BOS is added. Pieces are one text for the pre-tokenizer and the merges (a word may cross a border), but control
  // tokens match only inside special pieces (user-defined ones everywhere, the longest at each place). `continuation`:
  // the text goes on from earlier ids, so SPM adds no space prefix at its start. Invalid UTF-8 encodes through bytes.
  // What the vocabulary can't spell becomes its unknown token; a file without one loses those bytes, as the reference
  // does, and says so in warnings().
  std::vector<int32_t> encode(std::span<const TextPiece> pieces, bool continuation = false) const;
  std::vector<int32_t> encode(std::string_view text, bool special) const;

  // Raw bytes of one token (control tokens give their text). Ids out of range: invalid_argument.
  virtual std::string piece(int32_t id) const = 0;
  // The text of ids, control tokens included as their text; SPM drops the space that its prefix added at the start.
  // Ids out of range: invalid_argument with their place in the list.
  std::string decode(std::span<const int32_t> ids) const;

  int32_t n_vocab() const;
  std::optional<int32_t> bos() const;
  std::optional<int32_t> eos() const;
  bool add_bos() const { return add_bos_; }
  bool is_eog(int32_t id) const;  // ends a generation (eos, eot, <|im_end|>, ...)
  bool is_control(int32_t id) const;
  std::optional<int32_t> find(std::string_view token_text) const;  // exact token text -> id, the lowest
  bool strips_leading_space() const { return add_space_prefix_; }
  std::span<const int32_t> suppressed() const;       // tokenizer.ggml.suppress_tokens
  const std::vector<std::string>& warnings() const;  // oddities of the file that were lived with

 protected:
  explicit Tokenizer(std::unique_ptr<Vocabulary> vocabulary);
  // Ids of text that holds no special token. `after_token`: a special token stands right before it; `starts`: it is
  // the beginning of everything.
  virtual void encode_text(std::string_view text, bool starts, bool after_token, std::vector<int32_t>& out) const = 0;
  // For a byte outside of every token: <0xNN>, else the unknown token, else -1.
  int32_t byte_fallback(uint8_t byte) const { return fallback_[byte]; }
  void warn_about_missing_bytes(std::span<const int32_t, 256> own) const;  // own: the ids of bytes as tokens, -1: none

  std::unique_ptr<Vocabulary> vocabulary_;
  bool add_bos_ = false, add_space_prefix_ = false;

 private:
  std::unique_ptr<const SpecialTokens> specials_;
  std::vector<int32_t> fallback_;  // [256]: for a byte outside of every token, -1 for none
};

// Turns tokens into text pieces that are always whole UTF-8 characters; holds back an incomplete tail.
class StreamDecoder {
 public:
  explicit StreamDecoder(std::shared_ptr<const Tokenizer> t) : tokenizer_(std::move(t)) {}
  std::string push(int32_t id);  // text that is now complete (may be empty); control tokens give ""
  std::string finish();          // what is left, invalid bytes as U+FFFD

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::string pending_;  // bytes that begin a character
  bool first_ = true;
};

}  // namespace foveal
