// Byte-level BPE: words of the pre-tokenizer, bytes as symbols, the merge of lowest rank first (leftmost on ties).
#include "engine/text/bpe.h"

#include <algorithm>
#include <limits>

#include "engine/text/pre_tokenizer.h"
#include "engine/text/unicode.h"
#include "engine/text/vocabulary.h"

namespace foveal {
namespace {

constexpr uint64_t most_merges = uint64_t{1} << 26;
constexpr uint32_t no_rank = std::numeric_limits<uint32_t>::max();

// GPT-2 spells bytes as printable characters: itself where printable, else U+0100 and up, in order.
struct ByteSpelling {
  int16_t byte_of[0x144];  // -1: no byte
  ByteSpelling() {
    std::fill(std::begin(byte_of), std::end(byte_of), int16_t{-1});
    int next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      byte_of[printable ? b : next++] = static_cast<int16_t>(b);
    }
  }
};

// The bytes that `token` spells; nullopt when a character of it stands for no byte.
std::optional<std::string> unspell(std::string_view token) {
  static const ByteSpelling spelling;
  std::string out;
  const char* end = token.data() + token.size();
  for (const char* p = token.data(); p < end;) {
    const Char c = decode_char(p, end);
    if (!c.valid || c.code_point >= std::size(spelling.byte_of) || spelling.byte_of[c.code_point] < 0)
      return std::nullopt;
    out += static_cast<char>(spelling.byte_of[c.code_point]);
    p += c.bytes;
  }
  return out;
}

struct Merge {
  uint32_t rank = no_rank;
  int32_t id = -1;  // of the merged token
};

class Bpe final : public Tokenizer {
 public:
  Bpe(const Gguf& file, std::unique_ptr<Vocabulary> vocabulary, const PreTokenizer& pre);
  std::string piece(int32_t id) const override;

 protected:
  void encode_text(std::string_view text, bool, bool, std::vector<int32_t>& out) const override;

 private:
  // A word while it is merged: a linked list over its bytes.
  struct Symbol {
    int32_t id, previous, next;  // -1: none
    Merge with_next;
  };
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<uint64_t> heap;  // rank << 32 | position, least first
  };
  void load_merges(const Gguf& file);
  Merge merge_of(int32_t left, int32_t right) const {
    const Merge* m = left < 0 || right < 0 ? nullptr : merges_.find(left, right);
    return m == nullptr ? Merge{} : *m;
  }
  void merge_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const;

  const PreTokenizer& pre_;
  StringPool bytes_;                       // what each token stands for
  std::unique_ptr<StringTable> by_bytes_;  // only tokens that ordinary text may become
  PairTable<Merge> merges_;
  int32_t byte_id_[256];  // token of a single byte, -1 for none
};

Bpe::Bpe(const Gguf& file, std::unique_ptr<Vocabulary> vocabulary, const PreTokenizer& pre)
    : Tokenizer(std::move(vocabulary)), pre_(pre) {
  const Vocabulary& v = *vocabulary_;
  add_bos_ = v.add_bos.value_or(pre.add_bos) && v.bos.has_value();
  std::vector<int32_t> spelled;
  for (int32_t id = 0; id < v.size(); ++id) {
    const std::string_view text = v.text_of(id);
    const TokenKind kind = v.kind_of(id);
    if (kind == TokenKind::byte) {
      const char byte = static_cast<char>(parse_byte_token(text).value_or(0));
      bytes_.add({&byte, 1});
      continue;
    }
    const auto raw = kind == TokenKind::normal || kind == TokenKind::user_defined ? unspell(text) : std::nullopt;
    bytes_.add(raw && kind == TokenKind::normal ? *raw : text);
    if (raw && !raw->empty() && (kind == TokenKind::normal || *raw == text)) spelled.push_back(id);
  }
  by_bytes_ = std::make_unique<StringTable>(bytes_);
  for (const int32_t id : spelled) by_bytes_->add(id);
  for (int b = 0; b < 256; ++b) {
    const char c = static_cast<char>(b);
    byte_id_[b] = by_bytes_->find({&c, 1});
  }
  warn_about_missing_bytes(byte_id_);
  load_merges(file);
}

void Bpe::load_merges(const Gguf& file) {
  const auto lines = file.find_string_views("tokenizer.ggml.merges", 0, most_merges);
  if (!lines)
    fail(ErrorCode::file_format, file.path(), ": key 'tokenizer.ggml.merges' is missing, expected for model 'gpt2'");
  merges_ = PairTable<Merge>(lines->size());
  size_t ignored = 0;
  uint32_t rank = 0;
  for (const std::string_view line : *lines) {
    const uint32_t this_rank = rank++;
    const size_t space = line.find(' ', 1);
    const auto left = unspell(line.substr(0, std::min(space, line.size())));
    const auto right = space == line.npos ? std::nullopt : unspell(line.substr(space + 1));
    const int32_t left_id = left ? by_bytes_->find(*left) : -1, right_id = right ? by_bytes_->find(*right) : -1;
    const int32_t id = left_id < 0 || right_id < 0 ? -1 : by_bytes_->find(*left + *right);
    if (id < 0) {
      ++ignored;
      continue;
    }
    bool fresh = false;
    Merge& m = merges_.add(left_id, right_id, &fresh);
    if (fresh) m = {this_rank, id};
  }
  if (ignored > 0)
    vocabulary_->warnings.push_back(
        cat("tokenizer.ggml.merges: ", ignored, " of ", lines->size(), " name no token and are ignored"));
}

std::string Bpe::piece(int32_t id) const {
  if (id < 0 || id >= n_vocab()) fail(ErrorCode::invalid_argument, "token id ", id, ": expected 0 to ", n_vocab() - 1);
  return std::string(bytes_[static_cast<size_t>(id)]);
}

void Bpe::encode_text(std::string_view text, bool, bool, std::vector<int32_t>& out) const {
  std::string normal;
  if (pre_.nfc) {
    normal = nfc(text);
    text = normal;
  }
  Scratch scratch;
  split_words(pre_.stages, text, [&](std::string_view word) {
    const int32_t whole = pre_.ignore_merges || word.size() == 1 ? by_bytes_->find(word) : -1;
    if (whole >= 0)
      out.push_back(whole);
    else
      merge_word(word, scratch, out);
  });
}

void Bpe::merge_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const auto at = [&](int32_t i) -> Symbol& { return symbols[static_cast<size_t>(i)]; };
  const auto queue = [&](int32_t i) {  // the pair of i and its next
    Symbol& s = at(i);
    s.with_next = s.next < 0 ? Merge{} : merge_of(s.id, at(s.next).id);
    if (s.with_next.id < 0) return;
    heap.push_back(uint64_t{s.with_next.rank} << 32 | static_cast<uint32_t>(i));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  symbols.clear();
  heap.clear();
  for (const char c : word) {
    const auto byte = static_cast<uint8_t>(c);
    const int32_t id = byte_id_[byte] >= 0 ? byte_id_[byte] : byte_fallback(byte);
    if (id < 0) continue;  // lost before the merges, so that what stands around it may merge
    const auto i = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, i - 1, i + 1, {}});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;
  for (int32_t i = 0; at(i).next >= 0; ++i) queue(i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const auto rank = static_cast<uint32_t>(heap.back() >> 32);
    const auto i = static_cast<int32_t>(static_cast<uint32_t>(heap.back()));
    heap.pop_back();
    Symbol& left = at(i);
    if (left.with_next.rank != rank) continue;  // the pair is gone
    const int32_t gone = left.next;
    left.id = left.with_next.id;
    left.next = at(gone).next;
    at(gone).with_next = {};
    if (left.next >= 0) at(left.next).previous = i;
    queue(i);
    if (left.previous >= 0) queue(left.previous);
  }
  for (int32_t i = 0; i >= 0; i = at(i).next) out.push_back(at(i).id);
}

}  // namespace

std::shared_ptr<const Tokenizer> load_bpe(const Gguf& file) {
  auto vocabulary = Vocabulary::load(file, false);
  const std::string* name = file.find_string("tokenizer.ggml.pre");
  const PreTokenizer* pre = find_pre_tokenizer(name == nullptr ? "default" : *name);
  if (pre == nullptr)
    fail(ErrorCode::unsupported, file.path(), ": key 'tokenizer.ggml.pre': found ", quoted(*name),
         ", a pre-tokenizer that this engine doesn't know; expected one of: ", pre_tokenizer_names());
  if (name == nullptr)
    vocabulary->warnings.push_back(
        "tokenizer.ggml.pre is missing: 'default' is used, words may be split differently than in training");
  return std::make_shared<const Bpe>(file, std::move(vocabulary), *pre);
}

}  // namespace foveal
