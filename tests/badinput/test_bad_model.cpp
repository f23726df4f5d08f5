// Rows 20 to 30 and 32 of the bad-input matrix: well-formed files whose numbers, tensors or vocabulary make no model.
#include <cmath>
#include <limits>

#include "tests/badinput/damaged_model.h"

using namespace badinput;
using namespace gguf_writer;

namespace {

constexpr ErrorCode kFormat = ErrorCode::file_format, kUnsupported = ErrorCode::unsupported;

std::function<void(Document&)> set(const char* key, int64_t value) {
  return [=](Document& d) { d.number<int64_t>(key, I64, value); };
}

std::shared_ptr<const Model> opened(const Document& d) {
  return load(folder().write("odd.gguf", d.bytes()));
}

Tensor& tensor(Document& d, const std::string& name) {
  for (Tensor& t : d.tensors) {
    if (t.name == name) return t;
  }
  throw std::runtime_error("no such tensor");
}

// The vocabulary's words, as the good model has them.
std::vector<std::string> words() {
  const Bytes bytes = good_model().bytes();
  const auto file = foveal::Gguf::parse(bytes, "good");
  return *file->find_strings("tokenizer.ggml.tokens", 40, 40);
}

Document with_words(const std::vector<std::string>& all) {
  Document d = good_model();
  d.strings("tokenizer.ggml.tokens", all);
  return d;
}

}  // namespace

TEST(rows_20_to_23_hyperparameters) {
  run({
      {20, "unknown architecture", kUnsupported, "supported are llama",
       [](Document& d) { d.string("general.architecture", "mamba"); }},
      {20, "no architecture", kUnsupported, "supported are llama",
       [](Document& d) { d.remove("general.architecture"); }},
      {20, "an mmproj file", kUnsupported, "did you swap",
       [](Document& d) { d.string("general.architecture", "clip"); }},
      {21, "missing", kFormat, "'llama.block_count' is missing", [](Document& d) { d.remove("llama.block_count"); }},
      {21, "wrong type", kFormat, "found str 'two'", [](Document& d) { d.string("llama.block_count", "two"); }},
      {21, "an array", kFormat, "found arr of 1 u32",
       [](Document& d) { d.array<uint32_t>("llama.context_length", U32, {512}); }},
      {21, "width 0", kFormat, "'llama.embedding_length'", set("llama.embedding_length", 0)},
      {21, "width negative", kFormat, "'llama.embedding_length'", set("llama.embedding_length", -32)},
      {21, "width 2^31", kFormat, "'llama.embedding_length'", set("llama.embedding_length", int64_t{1} << 31)},
      {21, "context 0", kFormat, "'llama.context_length'", set("llama.context_length", 0)},
      {21, "ff negative", kFormat, "'llama.feed_forward_length'", set("llama.feed_forward_length", -1)},
      {22, "no heads", kFormat, "'llama.attention.head_count'", set("llama.attention.head_count", 0)},
      {22, "heads % kv", kFormat, "'llama.attention.head_count_kv'", set("llama.attention.head_count_kv", 3)},
      {22, "odd rope", kFormat, "'llama.rope.dimension_count'", set("llama.rope.dimension_count", 5)},
      {23, "no layers", kFormat, "'llama.block_count'", set("llama.block_count", 0)},
      {23, "513 layers", kFormat, "from 1 to 512, found i64 513", set("llama.block_count", 513)},
      {23, "more layers than tensors", kFormat, "tensor 'blk.2.", set("llama.block_count", 3)},
  });
  SmallModel mrope;
  mrope.arch = "qwen2vl";
  mrope.qkv_bias = true;
  run({{22, "sections", kFormat, "'qwen2vl.rope.dimension_sections'",
        [](Document& d) {
          d.array<int32_t>("qwen2vl.rope.dimension_sections", I32, {9, 9, 9, 0});
        }}},
      mrope);
}

TEST(row_24_shapes) {
  run({
      {24, "too narrow", kFormat, "expected shape [32], found [16]",
       [](Document& d) {
         Tensor& t = tensor(d, "output_norm.weight");
         t.ne = {16};
         t.data.resize(64);
       }},
      {24, "turned", kFormat, "'blk.1.ffn_down.weight': expected shape [48, 32], found [32, 48]",
       [](Document& d) {
         tensor(d, "blk.1.ffn_down.weight").ne = {32, 48};
       }},
      {24, "missing", kFormat, "'blk.0.attn_norm.weight'",
       [](Document& d) {
         std::erase_if(d.tensors, [](const Tensor& t) { return t.name == "blk.0.attn_norm.weight"; });
       }},
  });
}

TEST(row_25_floats) {
  const auto set_float = [](const char* key, float value) { return [=](Document& d) { d.f32(key, value); }; };
  const float inf = std::numeric_limits<float>::infinity();
  run({
      {25, "eps NaN", kFormat, "layer_norm_rms_epsilon", set_float("llama.attention.layer_norm_rms_epsilon", NAN)},
      {25, "eps inf", kFormat, "layer_norm_rms_epsilon", set_float("llama.attention.layer_norm_rms_epsilon", inf)},
      {25, "base NaN", kFormat, "'llama.rope.freq_base'", set_float("llama.rope.freq_base", NAN)},
      {25, "base 0", kFormat, "'llama.rope.freq_base'", set_float("llama.rope.freq_base", 0)},
  });
}

TEST(row_26_vocabulary_sizes) {
  run({
      {26, "no tokens", kFormat, "tokenizer.ggml.tokens", [](Document& d) { d.strings("tokenizer.ggml.tokens", {}); }},
      {26, "no list", kFormat, "tokenizer.ggml.tokens", [](Document& d) { d.remove("tokenizer.ggml.tokens"); }},
      {26, "fewer than rows", kFormat, "found 39 words",
       [](Document& d) { d.strings("tokenizer.ggml.tokens", std::vector<std::string>(39, "x")); }},
      {26, "scores short", kFormat, "tokenizer.ggml.scores",
       [](Document& d) {
         d.array<float>("tokenizer.ggml.scores", F32, {1, 2});
       }},
      {26, "scores of text", kFormat, "tokenizer.ggml.scores",
       [](Document& d) { d.strings("tokenizer.ggml.scores", std::vector<std::string>(40)); }},
      {26, "score NaN", kFormat, "found f32 nan at index 7",
       [](Document& d) {
         std::vector<float> scores(40, 0);
         scores[7] = NAN;
         d.array("tokenizer.ggml.scores", F32, scores);
       }},
      {26, "types short", kFormat, "tokenizer.ggml.token_type",
       [](Document& d) { d.array<int32_t>("tokenizer.ggml.token_type", I32, {1}); }},
      {26, "types of floats", kFormat, "tokenizer.ggml.token_type",
       [](Document& d) { d.array("tokenizer.ggml.token_type", F32, std::vector<float>(40, 1)); }},
      {26, "unknown model", kUnsupported, "'wordpiece'",
       [](Document& d) { d.string("tokenizer.ggml.model", "wordpiece"); }},
  });
}

TEST(row_27_words) {
  std::vector<std::string> all = words();
  all[20] = all[10];
  const auto doubled = opened(with_words(all))->tokenizer();
  CHECK(doubled->warnings().size() == 1 && doubled->warnings()[0].find("duplicate") != std::string::npos);
  CHECK_EQ(doubled->find(all[10]).value(), 10);
  all = words();
  all[20] = "";
  all[21] = "\xFF\xC0";
  const auto odd = opened(with_words(all))->tokenizer();
  const std::vector<int32_t> ids = odd->encode("abc", false);
  CHECK_EQ(odd->decode(ids), "abc");
  for (const char* bad : {"<0x-1>", "<0xZZ>", "<0x1>", "<0x123>", ""}) {
    all = words();
    all[20] = bad;
    Document d = with_words(all);
    std::vector<int32_t> types(40, 1);
    types[20] = 6;
    d.array("tokenizer.ggml.token_type", I32, types);
    expect_refused(27, bad, folder().write("bad.gguf", d.bytes()), kFormat, "token 20 is typed as a byte");
  }
}

TEST(row_28_merges) {
  Document d = good_model();
  d.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "gpt-2");
  std::vector<std::string> merges(200000, "q x");  // a pair without a word
  merges[0] = "no such";
  merges[1] = "a";
  merges[2] = "";
  merges[3] = " ";
  merges[4] = "\xFF \xFE";
  merges[5] = "a b c";
  d.strings("tokenizer.ggml.merges", merges);
  const auto tokenizer = opened(d)->tokenizer();
  CHECK_EQ(tokenizer->decode(tokenizer->encode("cab", false)), "cab");
  d.remove("tokenizer.ggml.merges");
  expect_refused(28, "no merges", folder().write("bad.gguf", d.bytes()), kFormat, "tokenizer.ggml.merges");
}

TEST(row_29_special_ids) {
  for (const char* key : {"bos_token_id", "eos_token_id", "unknown_token_id", "padding_token_id", "eot_token_id"}) {
    const std::string name = std::string("tokenizer.ggml.") + key;
    run({{29, key, kFormat, name.c_str(), set(name.c_str(), 40)},
         {29, key, kFormat, name.c_str(), set(name.c_str(), -1)}});
  }
}

// A template from a file is data: recognised or refused, never run, and the model stays usable by naming another.
TEST(row_30_chat_templates) {
  const std::string templates[] = {
      "",
      "{{ messages }}",
      std::string(10 << 20, 'x'),
      "{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}{% endfor %}",
      "{{ ''.__class__.__mro__[1].__subclasses__() }}",
      "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
      std::string(100000, '('),
  };
  for (const std::string& content : templates) {
    Document d = good_model();
    d.string("tokenizer.chat_template", content);
    const auto model = opened(d);
    CHECK_EQ(model->template_text(), content);
    CHECK_THROWS(foveal::Error, "--chat-template", model->chat_template());
    model->set_chat_template("chatml");
    CHECK(model->chat_template() == foveal::ChatTemplate::chatml);
  }
  const auto model = opened(good_model());  // no template at all
  CHECK_THROWS(foveal::Error, "--chat-template", model->chat_template());
}

// Weights that are no numbers load, and end in an error where a token would be chosen, not in garbage.
TEST(row_32_weights_that_are_no_numbers) {
  for (const float bad : {NAN, std::numeric_limits<float>::infinity()}) {
    Document d = good_model();
    std::memcpy(tensor(d, "blk.0.ffn_down.weight").data.data(), &bad, sizeof(bad));
    const auto session = opened(d)->session({}, 64);
    const std::vector<foveal::Part> prompt{foveal::TextPiece{"abc", false}};
    CHECK_THROWS(foveal::Error, "NaN", {
      session->start(prompt, {});
      for (std::string piece; session->next(piece);) {
      }
    });
    expect_good_call("NaN");
  }
}
