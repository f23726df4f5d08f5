// What both tokenizers share: added tokens, decoding, streams. bpe.cpp and spm.cpp hold the two algorithms.
#include "engine/text/tokenizer.h"

#include "engine/core/error.h"
#include "engine/text/bpe.h"
#include "engine/text/special_tokens.h"
#include "engine/text/spm.h"
#include "engine/text/unicode.h"
#include "engine/text/vocabulary.h"

namespace foveal {

std::shared_ptr<const Tokenizer> Tokenizer::load(const Gguf& file) {
  const std::string& model = file.get_string("tokenizer.ggml.model");
  if (model == "gpt2") return load_bpe(file);
  if (model == "llama") return load_spm(file);
  fail(ErrorCode::unsupported, file.path(), ": key 'tokenizer.ggml.model': found ", quoted(model),
       ", expected 'gpt2' (byte-level BPE) or 'llama' (SentencePiece)");
}

Tokenizer::Tokenizer(std::unique_ptr<Vocabulary> vocabulary)
    : vocabulary_(std::move(vocabulary)), specials_(std::make_unique<SpecialTokens>(*vocabulary_)), fallback_(256, -1) {
  const Vocabulary& v = *vocabulary_;
  for (int32_t id = v.size() - 1; id >= 0; --id) {  // the lowest id last: it stays
    if (v.kind_of(id) != TokenKind::byte) continue;
    if (const auto byte = parse_byte_token(v.text_of(id))) fallback_[*byte] = id;
  }
  // a control token never stands for text
  const bool usable = v.unknown && v.kind_of(*v.unknown) == TokenKind::unknown;
  for (int32_t& id : fallback_)
    if (id < 0 && usable) id = *v.unknown;
}

Tokenizer::~Tokenizer() = default;

void Tokenizer::warn_about_missing_bytes(std::span<const int32_t, 256> own) const {
  // 0xC0, 0xC1 and 0xF5 up are never part of valid text
  int missing = 0, first = -1;
  for (int byte = 0; byte < 0xF5; ++byte) {
    if (byte == 0xC0 || byte == 0xC1) continue;
    const auto at = static_cast<size_t>(byte);
    if (own[at] >= 0 || fallback_[at] >= 0) continue;
    if (missing++ == 0) first = byte;
  }
  if (missing > 0)
    vocabulary_->warnings.push_back(cat("tokenizer.ggml.tokens: no token spells ", missing,
                                        " of the byte values (byte ", first,
                                        " the first): text loses them, as with the model's own tokenizer"));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool special) const {
  const TextPiece piece{std::string(text), special};
  return encode({&piece, 1});
}

std::vector<int32_t> Tokenizer::encode(std::span<const TextPiece> pieces, bool continuation) const {
  std::string text;
  std::vector<std::pair<size_t, size_t>> trusted;  // stretches [begin, end) where control tokens may stand, ascending
  for (const TextPiece& piece : pieces) {
    const size_t begin = text.size();
    text += piece.text;
    if (!piece.special || piece.text.empty()) continue;
    if (!trusted.empty() && trusted.back().second == begin)
      trusted.back().second = text.size();
    else
      trusted.emplace_back(begin, text.size());
  }
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 8);
  const std::string_view all = text;
  size_t from = 0;
  bool after_token = false;
  const auto flush = [&](size_t to) {
    if (to > from) encode_text(all.substr(from, to - from), from == 0 && !continuation, after_token, ids);
  };
  auto stretch = trusted.begin();
  for (size_t at = 0; at < all.size();) {
    while (stretch != trusted.end() && stretch->second <= at) ++stretch;
    const bool inside = stretch != trusted.end() && stretch->first <= at;
    const auto found = specials_->match(all.substr(at), inside ? stretch->second - at : 0);
    if (found.id < 0) {
      ++at;
      continue;
    }
    flush(at);
    ids.push_back(found.id);
    from = at += found.bytes;
    after_token = true;
  }
  flush(all.size());
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string out;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= n_vocab())
      fail(ErrorCode::invalid_argument, "token ", i, " of the list: found id ", ids[i], ", expected 0 to ",
           n_vocab() - 1);
    out += piece(ids[i]);
  }
  const bool drop = add_space_prefix_ && !out.empty() && out[0] == ' ' && !is_control(ids[0]);
  return drop ? out.substr(1) : out;
}

int32_t Tokenizer::n_vocab() const {
  return vocabulary_->size();
}
std::optional<int32_t> Tokenizer::bos() const {
  return vocabulary_->bos;
}
std::optional<int32_t> Tokenizer::eos() const {
  return vocabulary_->eos;
}
std::span<const int32_t> Tokenizer::suppressed() const {
  return vocabulary_->suppressed;
}
const std::vector<std::string>& Tokenizer::warnings() const {
  return vocabulary_->warnings;
}
std::optional<int32_t> Tokenizer::find(std::string_view token_text) const {
  return vocabulary_->find(token_text);
}

bool Tokenizer::is_eog(int32_t id) const {
  return id >= 0 && id < n_vocab() && vocabulary_->ends_answer[static_cast<size_t>(id)] != 0;
}

bool Tokenizer::is_control(int32_t id) const {
  return id >= 0 && id < n_vocab() && vocabulary_->kind_of(id) == TokenKind::control;
}

std::string StreamDecoder::push(int32_t id) {
  std::string piece = tokenizer_->piece(id);
  if (tokenizer_->is_control(id)) return "";
  if (first_ && tokenizer_->strips_leading_space() && piece.starts_with(' ')) piece.erase(0, 1);
  first_ = false;
  pending_ += piece;
  const size_t whole = pending_.size() - incomplete_tail(pending_);
  std::string out = replace_invalid_utf8(std::string_view(pending_).substr(0, whole));
  pending_.erase(0, whole);
  return out;
}

std::string StreamDecoder::finish() {
  std::string out = replace_invalid_utf8(pending_);
  pending_.clear();
  return out;
}

}  // namespace foveal
