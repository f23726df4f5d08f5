// SentencePiece BPE: characters as symbols, the merge whose result scores highest first (leftmost on ties).
#include "engine/text/spm.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <unordered_map>

#include "engine/text/unicode.h"
#include "engine/text/vocabulary.h"

namespace foveal {
namespace {

constexpr uint32_t no_rank = std::numeric_limits<uint32_t>::max();

// For each score, how many of the others are higher.
std::vector<uint32_t> ranks(const std::vector<float>& scores) {
  std::vector<uint32_t> order(scores.size()), rank(scores.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
  for (uint32_t i = 0; i < order.size(); ++i)
    rank[order[i]] = i > 0 && scores[order[i]] == scores[order[i - 1]] ? rank[order[i - 1]] : i;
  return rank;
}

class Spm final : public Tokenizer {
 public:
  Spm(const Gguf& file, std::unique_ptr<Vocabulary> vocabulary);
  std::string piece(int32_t id) const override;

 protected:
  void encode_text(std::string_view text, bool starts, bool after_token, std::vector<int32_t>& out) const override;

 private:
  struct Symbol {
    std::string_view text;
    int32_t previous, next;  // -1: none
    uint32_t rank;           // of merging with the next one; no_rank: no token, or merged away
  };
  // An unused token may be merged on the way but is taken apart again at the end: into what it was made of.
  using Parts = std::unordered_map<std::string_view, std::pair<std::string_view, std::string_view>>;
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<uint64_t> heap;  // rank << 32 | position, least first
    Parts parts;
  };
  bool starts_word(std::string_view text, size_t at) const;
  void merge(std::string_view text, Scratch& scratch, std::vector<int32_t>& out) const;
  void emit(std::string_view text, const Parts& parts, std::vector<int32_t>& out) const;

  std::unique_ptr<StringTable> mergeable_;  // tokens that ordinary text may become
  std::vector<uint32_t> rank_;              // per token: how many scores are higher; equal for equal scores
  size_t longest_ = 0;                      // bytes of the longest of them
  bool words_apart_ = true;                 // no token holds a space after another character: words never merge
  bool prefix_after_token_ = true;
};

Spm::Spm(const Gguf& file, std::unique_ptr<Vocabulary> vocabulary) : Tokenizer(std::move(vocabulary)) {
  const Vocabulary& v = *vocabulary_;
  for (const char* key : {"tokenizer.ggml.scores", "tokenizer.ggml.token_type"})
    if (!file.has(key))
      fail(ErrorCode::file_format, file.path(), ": key '", key, "' is missing, expected for model 'llama'");
  add_bos_ = v.add_bos.value_or(true) && v.bos.has_value();
  add_space_prefix_ = v.add_space_prefix.value_or(true);
  // Mistral's tokenizers since v3 have [INST] as a control token, and add the prefix only at the beginning.
  const auto inst = v.find("[INST]");
  prefix_after_token_ = !inst || v.kind_of(*inst) != TokenKind::control;
  rank_ = ranks(v.score);
  mergeable_ = std::make_unique<StringTable>(v.text);
  for (int32_t id = 0; id < v.size(); ++id) {
    const TokenKind kind = v.kind_of(id);
    const std::string_view text = v.text_of(id);
    if (text.empty() || kind == TokenKind::control || kind == TokenKind::unknown || kind == TokenKind::byte) continue;
    mergeable_->add(id);
    longest_ = std::max(longest_, text.size());
    for (size_t at = text.find(space_mark, 1); at != text.npos; at = text.find(space_mark, at + 1))
      if (at < 3 || text.substr(at - 3, 3) != space_mark) words_apart_ = false;
  }
  int32_t own[256];
  for (int b = 0; b < 256; ++b) {
    const char c = static_cast<char>(b);
    own[b] = mergeable_->find({&c, 1});
  }
  warn_about_missing_bytes(own);
}

std::string Spm::piece(int32_t id) const {
  const Vocabulary& v = *vocabulary_;
  if (id < 0 || id >= v.size()) fail(ErrorCode::invalid_argument, "token id ", id, ": expected 0 to ", v.size() - 1);
  const std::string_view text = v.text_of(id);
  const TokenKind kind = v.kind_of(id);
  if (kind == TokenKind::byte) return std::string(1, static_cast<char>(parse_byte_token(text).value_or(0)));
  if (kind == TokenKind::control || kind == TokenKind::unknown) return std::string(text);
  return spaces_for_marks(text);
}

// Whether the word before `at` ends there for good.
bool Spm::starts_word(std::string_view text, size_t at) const {
  return words_apart_ && at >= space_mark.size() && text.substr(at, space_mark.size()) == space_mark &&
         text.substr(at - space_mark.size(), space_mark.size()) != space_mark;
}

void Spm::encode_text(std::string_view text, bool starts, bool after_token, std::vector<int32_t>& out) const {
  std::string marked;
  marked.reserve(text.size() + text.size() / 2 + space_mark.size());
  if (add_space_prefix_ && (starts || (after_token && prefix_after_token_))) marked += space_mark;
  for (const char c : text) {
    if (c == ' ')
      marked += space_mark;
    else
      marked += c;
  }
  Scratch scratch;
  const std::string_view all = marked;
  size_t from = 0;
  for (size_t at = all.find(space_mark); at != all.npos; at = all.find(space_mark, at + 1)) {
    if (at == 0 || !starts_word(all, at)) continue;
    merge(all.substr(from, at - from), scratch, out);
    from = at;
  }
  merge(all.substr(from), scratch, out);
}

void Spm::merge(std::string_view text, Scratch& scratch, std::vector<int32_t>& out) const {
  if (text.empty()) return;
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const auto at = [&](int32_t i) -> Symbol& { return symbols[static_cast<size_t>(i)]; };
  const auto queue = [&](int32_t i) {  // the pair of i and its next
    Symbol& left = at(i);
    left.rank = no_rank;
    if (left.next < 0) return;
    const std::string_view right = at(left.next).text;
    const std::string_view joined(left.text.data(), left.text.size() + right.size());
    const int32_t id = joined.size() > longest_ ? -1 : mergeable_->find(joined);
    if (id < 0) return;
    left.rank = rank_[static_cast<size_t>(id)];
    heap.push_back(uint64_t{left.rank} << 32 | static_cast<uint32_t>(i));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
    if (vocabulary_->kind_of(id) == TokenKind::unused) scratch.parts[joined] = {left.text, right};
  };
  symbols.clear();
  heap.clear();
  scratch.parts.clear();
  const char* end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const uint32_t bytes = decode_char(p, end).bytes;
    const auto i = static_cast<int32_t>(symbols.size());
    symbols.push_back({{p, bytes}, i - 1, p + bytes < end ? i + 1 : -1, no_rank});
    p += bytes;
  }
  for (int32_t i = 0; at(i).next >= 0; ++i) queue(i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const auto rank = static_cast<uint32_t>(heap.back() >> 32);
    const auto i = static_cast<int32_t>(static_cast<uint32_t>(heap.back()));
    heap.pop_back();
    Symbol& left = at(i);
    if (left.rank != rank) continue;  // the pair is gone
    Symbol& right = at(left.next);
    left.text = {left.text.data(), left.text.size() + right.text.size()};
    left.next = right.next;
    right.rank = no_rank;
    if (left.next >= 0) at(left.next).previous = i;
    queue(i);
    if (left.previous >= 0) queue(left.previous);
  }
  for (int32_t i = 0; i >= 0; i = at(i).next) emit(at(i).text, scratch.parts, out);
}

void Spm::emit(std::string_view text, const Parts& parts, std::vector<int32_t>& out) const {
  const int32_t id = mergeable_->find(text);
  if (id >= 0 && vocabulary_->kind_of(id) != TokenKind::unused) return out.push_back(id);
  const auto made_of = parts.find(text);
  if (made_of != parts.end()) {
    emit(made_of->second.first, parts, out);  // each part is shorter: the depth is at most the token's length
    return emit(made_of->second.second, parts, out);
  }
  if (id >= 0) return out.push_back(id);
  for (const char c : text) {
    const int32_t byte_id = byte_fallback(static_cast<uint8_t>(c));
    const bool again = vocabulary_->unknown == byte_id && !out.empty() && out.back() == byte_id;
    if (byte_id >= 0 && !again) out.push_back(byte_id);  // a run of unknown characters is one unknown token
  }
}

}  // namespace

std::shared_ptr<const Tokenizer> load_spm(const Gguf& file) {
  return std::make_shared<const Spm>(file, Vocabulary::load(file, true));
}

}  // namespace foveal
