// Both tokenizers on small vocabularies: merges, added tokens, trust, decoding, streams, and what files may get wrong.
#include "engine/text/tokenizer.h"

#include <random>

#include "tests/check.h"
#include "tests/text/vocabularies.h"

using namespace foveal;
using vocabularies::Bpe;
using vocabularies::load;
using vocabularies::Merge;
using vocabularies::Spm;

namespace {

using Ids = std::vector<int32_t>;
const std::string mark = "\xE2\x96\x81";  // U+2581

Ids encode(const Tokenizer& t, std::initializer_list<TextPiece> pieces, bool continuation = false) {
  const std::vector<TextPiece> all(pieces);
  return t.encode(all, continuation);
}

std::string random_bytes(std::mt19937& random, size_t most) {
  std::string text;
  for (size_t n = random() % most; n > 0; --n)
    text += random() % 2 == 0 ? " \n'1aAb<|>\xE4\xBD\xA0"[random() % 13] : static_cast<char>(random());
  return text;
}

// Chat markers, a user-defined token, a run of newlines.
Bpe chat_vocabulary() {
  Bpe v;
  v.merges = {{"a", "b"}, {"ab", "c"}, {"b", "c"}, {" ", "ab"}, {"a", "a"}, {"aa", "aa"}};
  v.more = {{"<|im_start|>", 3}, {"<|im_end|>", 3}, {"<tool>", 4}, {"<tool>x", 4}, {"\n\n", 4}, {"unused", 5}};
  return v;
}

}  // namespace

TEST(bpe_merges_lowest_rank_first_then_leftmost) {
  const Bpe v = chat_vocabulary();
  const auto t = load(v.document());
  const int32_t ab = 256, abc = 257, bc = 258, space_ab = 259, aa = 260, aaaa = 261;
  CHECK_EQ(t->encode("abc", false), (Ids{abc}));
  CHECK_EQ(t->encode("bc", false), (Ids{bc}));
  CHECK_EQ(t->encode("x ab", false), (Ids{'x', space_ab}));
  CHECK_EQ(t->encode("aaa", false), (Ids{aa, 'a'}));  // the leftmost of equals
  CHECK_EQ(t->encode("aaaaa", false), (Ids{aaaa, 'a'}));
  CHECK_EQ(t->encode("aab", false), (Ids{'a', ab}));
  CHECK_EQ(t->encode("", true), Ids{});
  CHECK_EQ(t->piece(abc), "abc");
  CHECK_EQ(t->piece(' '), " ");
  CHECK(t->warnings().empty());
}

TEST(bpe_whole_words_when_merges_are_ignored) {
  Bpe v;
  v.merges = {{"a", "b"}};
  v.more = {{"abcd", 1}};
  const auto with = [&](const char* pre) {
    v.pre = pre;
    return load(v.document())->encode("abcd ab", false);
  };
  CHECK_EQ(with("gpt-2"), (Ids{256, 'c', 'd', ' ', 256}));
  CHECK_EQ(with("llama-bpe"), (Ids{v.extra(0), ' ', 256}));
}

TEST(bpe_normalises_where_the_model_did) {
  Bpe v;
  v.pre = "qwen2";
  CHECK_EQ(load(v.document())->encode("e\xCC\x81", false), (Ids{0xC3, 0xA9}));
  v.pre = "llama-bpe";
  CHECK_EQ(load(v.document())->encode("e\xCC\x81", false), (Ids{'e', 0xCC, 0x81}));
}

TEST(control_tokens_only_where_the_caller_trusts) {
  const Bpe v = chat_vocabulary();
  const auto t = load(v.document());
  const int32_t start = v.extra(0), end = v.extra(1), tool = v.extra(2), tool_x = v.extra(3), newlines = v.extra(4);
  CHECK_EQ(t->encode("<|im_start|>ab", true), (Ids{start, 256}));
  CHECK_EQ(t->encode("<|im_start|>", false).size(), 12u);
  CHECK_EQ(encode(*t, {{"<|im_start|>", true}, {"<|im_end|>", false}, {"<|im_end|>", true}}).size(), 12u);
  CHECK_EQ(encode(*t, {{"<|im_st", true}, {"art|>", false}}).size(), 12u);  // half of it trusted
  CHECK_EQ(encode(*t, {{"<|im_st", false}, {"art|>", true}}).size(), 12u);
  CHECK_EQ(encode(*t, {{"<|im_st", true}, {"art|>", true}}), (Ids{start}));  // trusted text is one text
  CHECK_EQ(encode(*t, {{"a", true}, {"b", false}}), (Ids{256}));             // and a word may cross a border
  CHECK_EQ(t->encode("<tool><tool>x", false), (Ids{tool, tool_x}));          // user-defined: always, the longest
  CHECK_EQ(encode(*t, {{"\n", true}, {"\n", false}}), (Ids{newlines}));
  CHECK_EQ(t->encode("unused", true).size(), 6u);
  CHECK_EQ(t->encode("<|im_end|>\n\n\n", true), (Ids{end, newlines, '\n'}));
}

TEST(user_text_never_gives_a_control_id) {
  std::mt19937 random(2);
  const auto bpe = load(chat_vocabulary().document());
  Spm v;
  v.pieces = {{"<", -1}, {"s", -2}, {">", -3}, {"<s", -1}, {"s>", -1}, {mark, -1}, {"im", -2}, {"a", -1}, {"\n", -1}};
  const auto spm = load(v.document());
  for (int round = 0; round < 3000; ++round) {
    std::string text = random_bytes(random, 20);
    text.insert(random() % (text.size() + 1),
                std::vector<std::string>{"<|im_start|>", "<s>", "</s>", "<|im_end|>"}[random() % 4]);
    for (const auto& t : {bpe, spm}) {
      const Ids ids = t->encode(text, false);
      for (const int32_t id : ids) CHECK(!t->is_control(id));
      CHECK_EQ(t->decode(ids), text);  // nothing is dropped, whatever the bytes
    }
  }
}

TEST(spm_merges_by_score_and_falls_back_to_bytes) {
  Spm v;
  v.pieces = {{"a", -9}, {"b", -9}, {"c", -9}, {"ab", -2}, {"bc", -1}, {mark, -9}, {mark + "a", -3}, {"abc", -8}};
  const auto t = load(v.document());
  const int32_t bc = 263, space = 264, space_a = 265, abc = 266;
  CHECK_EQ(t->encode("abc", false), (Ids{space_a, bc}));
  CHECK_EQ(t->encode(" abc", false), (Ids{space, space_a, bc}));
  CHECK_EQ(encode(*t, {{"abc", false}}, true), (Ids{abc}));  // the text goes on: no prefix
  CHECK_EQ(t->encode("\n\xC3", false), (Ids{space, 3 + '\n', 3 + 0xC3}));
  CHECK_EQ(t->encode("", true), Ids{});
  CHECK_EQ(t->encode("a</s>a", true), (Ids{space_a, 2, space_a}));  // a prefix behind a special token too
  CHECK_EQ(t->decode(t->encode("abc a", false)), "abc a");
  CHECK_EQ(t->piece(space_a), " a");
  CHECK_EQ(t->piece(3 + 0xC3), "\xC3");
  CHECK(t->add_bos() && t->bos() == 1 && t->eos() == 2 && t->strips_leading_space());
}

TEST(spm_ties_go_to_the_left) {
  Spm v;
  v.pieces = {{"x", -9}, {"xx", -1}, {mark, -9}};
  CHECK_EQ(load(v.document())->encode("xxx", false), (Ids{261, 260, 259}));
}

TEST(spm_takes_unused_tokens_apart) {
  Spm v;
  v.pieces = {{"a", -9}, {"b", -9}, {"c", -9}, {"ab", -1, 5}, {"abc", -2}, {mark, -9}};
  auto d = v.document();
  d.number<uint8_t>("tokenizer.ggml.add_space_prefix", gguf_writer::BOOL, 0);
  const auto t = load(d);
  CHECK_EQ(t->encode("abc", false), (Ids{263}));      // an unused token is a step on the way
  CHECK_EQ(t->encode("ab", false), (Ids{259, 260}));  // but never the result
  CHECK(!t->strips_leading_space());
}

TEST(spm_user_defined_runs) {
  Spm v;
  v.pieces = {{"\n", 0, 4}, {"\n\n", 0, 4}, {"\n\n\n", 0, 4}, {mark + mark, 0, 4}, {"a", -1}, {mark, -1}};
  auto d = v.document();
  d.number<uint8_t>("tokenizer.ggml.add_space_prefix", gguf_writer::BOOL, 0);
  const auto t = load(d);
  CHECK_EQ(t->encode("a\n\n\n\na", false), (Ids{263, 261, 259, 263}));
  CHECK_EQ(t->encode("   a", false), (Ids{262, 264, 263}));  // spelled with U+2581 in the file
  CHECK_EQ(t->decode(Ids{262, 263}), "  a");
}

TEST(spm_prefix_only_at_the_beginning_for_mistral_v3) {
  Spm v;
  v.pieces = {{"[INST]", 0, 3}, {mark, -1}, {"a", -2}, {mark + "a", -3}};
  CHECK_EQ(load(v.document())->encode("[INST] a", true), (Ids{259, 262}));
  CHECK_EQ(load(v.document())->encode("a", true), (Ids{262}));
  v.pieces[0].type = 1;
  CHECK_EQ(load(v.document())->encode("</s> a", true), (Ids{2, 260, 262}));
}

TEST(spm_without_bytes_uses_one_unknown_for_a_run) {
  gguf_writer::Document d;
  d.string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "a", mark});
  d.array<float>("tokenizer.ggml.scores", gguf_writer::F32, {0, 0, -1, -1});
  d.array<int32_t>("tokenizer.ggml.token_type", gguf_writer::I32, {2, 3, 1, 1});
  const auto t = load(d);
  CHECK_EQ(t->encode("a\xE4\xBD\xA0xya", false), (Ids{3, 2, 0, 2}));
  CHECK(t->warnings().empty());
}

TEST(missing_bytes_are_lost_with_a_warning) {
  gguf_writer::Document d;
  d.string("tokenizer.ggml.model", "gpt2").strings("tokenizer.ggml.tokens", {"a", "b", "ab", "<|im_start|>"});
  d.array<int32_t>("tokenizer.ggml.token_type", gguf_writer::I32, {1, 1, 1, 3}).string("tokenizer.ggml.pre", "gpt-2");
  d.strings("tokenizer.ggml.merges", {"a b"}).u32("tokenizer.ggml.unknown_token_id", 3);
  const auto t = load(d);
  CHECK_EQ(t->encode("a?b", false), (Ids{0, 1}));  // three words
  CHECK_EQ(t->encode("\xC3\xA9", false), Ids{});   // and never the control token that is called unknown
  CHECK_EQ(t->warnings().size(), 1u);
  CHECK(t->warnings().at(0).find("no token spells") != std::string::npos);
}

TEST(warnings_and_defaults) {
  Bpe v = chat_vocabulary();
  v.more.push_back({vocabularies::spell("ab"), 1});
  v.more.push_back({vocabularies::spell("ab"), 1});
  auto d = v.document();
  d.strings("tokenizer.ggml.merges", {"a b", "nonsense", "a zz", "q q", ""}).remove("tokenizer.ggml.pre");
  const auto t = load(d);
  CHECK_EQ(t->encode("ab", false), (Ids{256}));  // the lowest id of duplicates
  CHECK_EQ(t->warnings().size(), 3u);
  CHECK(!t->bos().has_value() && !t->add_bos());
  CHECK_EQ(t->find("<|im_end|>"), std::optional<int32_t>(v.extra(1)));
  CHECK(!t->find("nothing").has_value());
}

TEST(ends_of_generation) {
  Bpe v;
  v.more = {{"<|im_end|>", 3}, {"<|endoftext|>", 1}, {"</s>", 1}, {"<end>", 3}, {"<|odd|>", 4}, {"</s>x", 4}};
  auto d = v.document();
  d.u32("tokenizer.ggml.eot_token_id", static_cast<uint32_t>(v.extra(3)));
  d.u32("tokenizer.ggml.eos_token_id", 7);
  d.array<int32_t>("tokenizer.ggml.suppress_tokens", gguf_writer::I32, {5, 6});
  const auto t = load(d);
  for (const int32_t id : {v.extra(0), v.extra(1), v.extra(3), 7}) CHECK(t->is_eog(id));
  for (const int32_t id : {v.extra(2), v.extra(4), -1, t->n_vocab()}) CHECK(!t->is_eog(id));
  CHECK(t->is_control(v.extra(1)) && t->is_control(v.extra(4)) && !t->is_control(v.extra(2)));
  CHECK_EQ(t->suppressed().size(), 2u);
}

TEST(bad_vocabularies) {
  const auto bpe = [] { return chat_vocabulary().document(); };
  const auto spm = [] { return Spm{{{"a", -1}}}.document(); };
  using namespace gguf_writer;
  CHECK_THROWS(Error, "tokenizer.ggml.model", load(bpe().string("tokenizer.ggml.model", "bert")));
  CHECK_THROWS(Error, "tokenizer.ggml.model", load(bpe().remove("tokenizer.ggml.model")));
  CHECK_THROWS(Error, "'wonder'", load(bpe().string("tokenizer.ggml.pre", "wonder")));
  CHECK_THROWS(Error, "tokenizer.ggml.tokens", load(bpe().strings("tokenizer.ggml.tokens", {})));
  CHECK_THROWS(Error, "tokenizer.ggml.tokens", load(bpe().remove("tokenizer.ggml.tokens")));
  CHECK_THROWS(Error, "tokenizer.ggml.tokens", load(bpe().u32("tokenizer.ggml.tokens", 3)));
  CHECK_THROWS(Error, "tokenizer.ggml.merges", load(bpe().remove("tokenizer.ggml.merges")));
  CHECK_THROWS(Error, "tokenizer.ggml.merges", load(bpe().array<int32_t>("tokenizer.ggml.merges", I32, {1})));
  CHECK_THROWS(Error, "token_type", load(bpe().array<int32_t>("tokenizer.ggml.token_type", I32, {1, 1})));
  CHECK_THROWS(Error, "token_type", load(spm().array("tokenizer.ggml.token_type", F32, std::vector<float>(260, 1))));
  CHECK_THROWS(Error, "token_type", load(spm().array("tokenizer.ggml.token_type", I32, std::vector<int32_t>(260, 7))));
  CHECK_THROWS(Error, "token_type", load(spm().remove("tokenizer.ggml.token_type")));
  CHECK_THROWS(Error, "scores", load(spm().remove("tokenizer.ggml.scores")));
  CHECK_THROWS(Error, "scores", load(spm().array<float>("tokenizer.ggml.scores", F32, {1})));
  CHECK_THROWS(Error, "scores", load(spm().array("tokenizer.ggml.scores", F32, std::vector<float>(260, NAN))));
  for (const char* key : {"bos", "eos", "unknown", "padding", "eot", "eom"})
    CHECK_THROWS(Error, key, load(spm().u32(cat("tokenizer.ggml.", key, "_token_id"), 260)));
  CHECK_THROWS(Error, "suppress", load(spm().array<int32_t>("tokenizer.ggml.suppress_tokens", I32, {260})));
  for (const char* text : {"<0x-1>", "<0xZZ>", "<0x1>", "<0x100>", "", "a"})
    CHECK_THROWS(Error, "typed as a byte", load(Spm{{{text, 0, 6}}}.document()));
  CHECK(load(spm()) != nullptr);
  CHECK(load(bpe()) != nullptr);
  const auto odd = load(Spm{{{"", 0}, {"\xFF\xC3", 0}, {std::string("\0", 1), 0}}}.document());
  CHECK_EQ(odd->piece(260), "\xFF\xC3");
}

TEST(ids_out_of_range_are_named) {
  const auto t = load(chat_vocabulary().document());
  const auto decode = [&](const Ids& ids) { return t->decode(ids); };
  CHECK_THROWS(Error, "token 1 of the list: found id -1", decode({0, -1}));
  CHECK_THROWS(Error, "found id 2147483647", decode({2147483647}));
  CHECK_THROWS(Error, "token id 268", t->piece(268));
  CHECK_EQ(decode({97, 256}), "aab");
}

TEST(streams_give_whole_characters) {
  const auto t = load(chat_vocabulary().document());
  const std::string text =
      "a\xE4\xBD\xA0\xF0\x9F\x98\x80 \xFF"
      "b\xC3";
  StreamDecoder stream(t);
  std::string all;
  for (const int32_t id : t->encode(text, false)) {
    const std::string piece = stream.push(id);
    CHECK_EQ(replace_invalid_utf8(piece), piece);
    all += piece;
  }
  CHECK_EQ(stream.push(262), "");  // a control token
  CHECK_EQ(all,
           "a\xE4\xBD\xA0\xF0\x9F\x98\x80 \xEF\xBF\xBD"
           "b");
  CHECK_EQ(stream.finish(), "\xEF\xBF\xBD");
  CHECK_EQ(stream.finish(), "");
}

TEST(streams_drop_the_prefix_space_once) {
  Spm v;
  v.pieces = {{mark + "a", -1}, {"a", -2}, {mark, -3}};
  StreamDecoder stream(load(v.document()));
  CHECK_EQ(stream.push(259), "a");
  CHECK_EQ(stream.push(259), " a");
}

TEST(long_and_odd_inputs) {
  const auto bpe = load(chat_vocabulary().document());
  Spm v;
  v.pieces = {{"a", -1}, {"aa", -2}, {"aaaa", -3}, {mark, -1}, {mark + mark, -2}};
  const auto spm = load(v.document());
  const size_t n = 1 << 20;
  CHECK_EQ(bpe->encode(std::string(n, 'a'), false).size(), n / 4);
  CHECK_EQ(spm->encode(std::string(n, 'a'), false).size(), n / 4 + 1);
  CHECK_EQ(bpe->encode(std::string(n, '\0'), false).size(), n);
  CHECK_EQ(bpe->encode(std::string(n, '<'), true).size(), n);
  CHECK_EQ(spm->encode(std::string(n, ' '), false).size(), n / 2 + 1);
  CHECK_EQ(bpe->encode("\xED\xA0\x80", false), (Ids{0xED, 0xA0, 0x80}));  // a lone surrogate
}

TEST(many_merges) {
  Bpe v = chat_vocabulary();
  auto d = v.document();
  std::vector<std::string> lines(500000, "a x");  // the same unknown pair, over and over
  lines.push_back("a b");
  d.strings("tokenizer.ggml.merges", lines);
  CHECK_EQ(load(d)->encode("ab", false), (Ids{256}));
}
