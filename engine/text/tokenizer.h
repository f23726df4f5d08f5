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

class Tokenizer {
 public:
  // Needs only tokenizer.ggml.* keys; general.architecture is ignored. Errors: file_format, unsupported (model or
  // pre-tokenizer not known: names it).
  static std::shared_ptr<const Tokenizer> load(const Gguf& file);
  virtual ~Tokenizer() = default;

  // No BOS is added. Pieces are one text for the pre-tokenizer and the merges (a word may cross a border), but special
  // tokens match only inside special pieces. `continuation`: the text goes on from earlier ids, so SPM adds no space
  // prefix at its start. Invalid UTF-8 encodes through bytes; nothing is dropped.
  virtual std::vector<int32_t> encode(std::span<const TextPiece> pieces, bool continuation = false) const = 0;
  std::vector<int32_t> encode(std::string_view text, bool special) const;

  // Raw bytes of one token (control tokens give their text). Ids out of range: invalid_argument.
  virtual std::string piece(int32_t id) const = 0;
  // The text of ids, control tokens included as their text; SPM drops the space that its prefix added at the start.
  std::string decode(std::span<const int32_t> ids) const;

  int32_t n_vocab() const { return n_vocab_; }
  std::optional<int32_t> bos() const { return bos_; }
  std::optional<int32_t> eos() const { return eos_; }
  bool add_bos() const { return add_bos_; }
  bool is_eog(int32_t id) const;  // ends a generation (eos, eot, <|im_end|>, ...)
  bool is_control(int32_t id) const;
  std::optional<int32_t> find(std::string_view token_text) const;  // exact token text -> id
  bool strips_leading_space() const { return add_space_prefix_; }
  std::span<const int32_t> suppressed() const { return suppressed_; }  // tokenizer.ggml.suppress_tokens

 protected:
  int32_t n_vocab_ = 0;
  std::optional<int32_t> bos_, eos_;
  bool add_bos_ = false, add_space_prefix_ = false;
  std::vector<int32_t> suppressed_;
  std::vector<uint8_t> flags_;  // per token: bit 0 control, bit 1 end of generation
  virtual std::optional<int32_t> find_text(std::string_view token_text) const = 0;
};

// Turns tokens into text pieces that are always whole UTF-8 characters; holds back an incomplete tail.
class StreamDecoder {
 public:
  explicit StreamDecoder(std::shared_ptr<const Tokenizer> t) : tokenizer_(std::move(t)) {}
  std::string push(int32_t id);  // text that is now complete (may be empty); control tokens give ""
  std::string finish();          // what is left, invalid bytes as U+FFFD

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::string pending_;
  bool first_ = true;
};

}  // namespace foveal
