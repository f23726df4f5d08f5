// Loading and checking of a GGUF's vocabulary; see vocabulary.h.
#include "engine/text/vocabulary.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace foveal {
namespace {

constexpr uint64_t most_tokens = 1u << 26;

std::vector<TokenKind> load_kinds(const Gguf& file, uint64_t n) {
  const auto kinds = file.find_ints("tokenizer.ggml.token_type", n, n, 0, 6);
  std::vector<TokenKind> out(n, TokenKind::normal);
  if (!kinds) return out;
  for (size_t i = 0; i < n; ++i)
    if ((*kinds)[i] != 0) out[i] = static_cast<TokenKind>((*kinds)[i]);
  return out;
}

// Texts that end an answer. `sure` ones do whatever their type in the file; others (Gemma: </s> is a tag of HTML) only
// as control tokens.
struct EndText {
  std::string_view text;
  bool sure;
};
constexpr EndText end_texts[] = {
    {"<|eot_id|>", true},
    {"<|im_end|>", true},
    {"<|end|>", true},
    {"<|return|>", true},
    {"<|call|>", true},
    {"<|flush|>", true},
    {"<|calls|>", true},
    {"<end_of_turn>", true},
    {"<|endoftext|>", true},
    {"</s>", false},
    {"<|eom_id|>", true},
    {"<EOT>", false},
    {"_<EOT>", false},
    {"[EOT]", false},
    {"[EOS]", false},
    {"<|end_of_text|>", true},
    {"<end_of_utterance>", true},
    {"<eos>", false},
    {"<turn|>", true},
    {"<|tool_response>", true},
    {"<\xEF\xBD\x9C"
     "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
     true},
    {"[e~[", false},
    {"<|fim_pad|>", true},
    {"<fim_pad>", false},
    {"<fim-pad>", false},
    {"<|fim_repo|>", true},
    {"<|repo_name|>", true},
    {"<fim-repo>", false},
    {"<|file_sep|>", true},
};

void mark_ends(const Gguf& file, Vocabulary& v) {
  v.ends_answer.assign(static_cast<size_t>(v.size()), 0);
  const auto mark = [&](std::optional<int32_t> id) {
    if (id) v.ends_answer[static_cast<size_t>(*id)] = 1;
  };
  mark(v.eos);
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
    if (const auto id = file.find_int(key, 0, v.size() - 1)) mark(static_cast<int32_t>(*id));
  const bool harmony = v.find("<|return|>") && v.find("<|call|>");
  const bool own_turns = v.find("<turn|>") && v.find("<|tool_response>");
  for (const EndText& end : end_texts) {
    if ((harmony && end.text == "<|end|>") || (own_turns && end.text == "</s>")) continue;
    const auto id = v.find(end.text);
    if (!id || (!end.sure && v.kind_of(*id) != TokenKind::control)) continue;
    mark(id);
    v.kind[static_cast<size_t>(*id)] = TokenKind::control;
  }
}

// A hand-made file may call chat markers user-defined, which would let a user's text spell them.
void protect_markers(Vocabulary& v) {
  for (int32_t id = 0; id < v.size(); ++id) {
    const std::string_view text = v.text_of(id);
    if (v.kind_of(id) == TokenKind::user_defined && text.size() > 4 && text.starts_with("<|") && text.ends_with("|>"))
      v.kind[static_cast<size_t>(id)] = TokenKind::control;
  }
}

// Ids that older files leave out. SentencePiece: the usual names, else the usual places.
void default_spm_ids(Vocabulary& v) {
  const auto pick = [&](std::optional<int32_t>& id, std::string_view name, std::string_view other, int32_t place) {
    if (!id) id = v.find(name);
    if (!id) id = v.find(other);
    if (!id && place < v.size()) id = place;
  };
  pick(v.bos, "<s>", "<bos>", 1);
  pick(v.eos, "</s>", "<eos>", 2);
  if (v.unknown) return;
  const auto unknown = std::find(v.kind.begin(), v.kind.end(), TokenKind::unknown);
  if (unknown != v.kind.end()) v.unknown = static_cast<int32_t>(unknown - v.kind.begin());
}

// BPE files without ids once meant 11 (Falcon's end of text), which is a comma in most vocabularies.
void default_bpe_ids(Vocabulary& v) {
  const bool control = v.size() > 11 && v.kind_of(11) == TokenKind::control;
  if (!v.bos && control) v.bos = 11;
  if (!v.eos && control) v.eos = 11;
}

}  // namespace

std::optional<int32_t> Vocabulary::find(std::string_view token_text) const {
  const int32_t id = by_text->find(token_text);
  return id < 0 ? std::nullopt : std::optional(id);
}

std::string spaces_for_marks(std::string_view text) {
  std::string out;
  for (size_t at; (at = text.find(space_mark)) != text.npos; text.remove_prefix(at + space_mark.size()))
    out.append(text.substr(0, at)) += ' ';
  return out.append(text);
}

std::optional<uint8_t> parse_byte_token(std::string_view text) {
  const auto digit = [](char c) -> int {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
  const int high = digit(text[3]), low = digit(text[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<uint8_t>(high * 16 + low);
}

std::unique_ptr<Vocabulary> Vocabulary::load(const Gguf& file, bool is_spm) {
  auto v = std::make_unique<Vocabulary>();
  v->file = file.path();
  const auto tokens = file.find_string_views("tokenizer.ggml.tokens", 1, most_tokens);
  if (!tokens)
    fail(ErrorCode::file_format, v->file, ": key 'tokenizer.ggml.tokens' is missing: the file holds no vocabulary");
  const uint64_t n = tokens->size();
  for (const std::string_view token : *tokens) v->text.add(token);
  v->kind = load_kinds(file, n);
  if (const auto scores = file.find_floats("tokenizer.ggml.scores", n, n)) {
    v->score = *scores;
    const auto bad = std::find_if(v->score.begin(), v->score.end(), [](float s) { return std::isnan(s); });
    if (bad != v->score.end())
      fail(ErrorCode::file_format, v->file, ": key 'tokenizer.ggml.scores': element ", bad - v->score.begin(),
           " is not a number");
  }

  auto table = std::make_unique<StringTable>(v->text);
  int64_t duplicates = 0, first_duplicate = -1;
  for (int32_t id = 0; id < v->size(); ++id) {
    if (table->add(id)) continue;
    if (duplicates++ == 0) first_duplicate = id;
  }
  if (duplicates > 0)
    v->warnings.push_back(cat("tokenizer.ggml.tokens: ", duplicates, " duplicate token texts, the first is id ",
                              first_duplicate, " ", quoted(v->text_of(static_cast<int32_t>(first_duplicate))),
                              "; the lowest id of each encodes"));
  v->by_text = std::move(table);
  for (int32_t id = 0; id < v->size(); ++id)
    if (v->kind_of(id) == TokenKind::byte && !parse_byte_token(v->text_of(id)))
      fail(ErrorCode::file_format, v->file, ": token ", id, " is typed as a byte but spelled ", quoted(v->text_of(id)),
           "; expected <0x00> to <0xFF>");

  const auto id_of = [&](const char* key) -> std::optional<int32_t> {
    const auto id = file.find_int(key, 0, v->size() - 1);
    return id ? std::optional(static_cast<int32_t>(*id)) : std::nullopt;
  };
  v->bos = id_of("tokenizer.ggml.bos_token_id");
  v->eos = id_of("tokenizer.ggml.eos_token_id");
  v->unknown = id_of("tokenizer.ggml.unknown_token_id");
  id_of("tokenizer.ggml.padding_token_id");
  v->add_bos = file.find_bool("tokenizer.ggml.add_bos_token");
  v->add_space_prefix = file.find_bool("tokenizer.ggml.add_space_prefix");
  if (const auto ids = file.find_ints("tokenizer.ggml.suppress_tokens", 0, n, 0, v->size() - 1))
    v->suppressed.assign(ids->begin(), ids->end());
  protect_markers(*v);
  if (is_spm)
    default_spm_ids(*v);
  else
    default_bpe_ids(*v);
  mark_ends(file, *v);
  return v;
}

}  // namespace foveal
