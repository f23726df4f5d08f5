// Hyperparameters: what a good file gives, and that every bad key or tensor is an error that names it.
#include <functional>
#include <limits>

#include "engine/core/error.h"
#include "engine/models/text_model.h"
#include "tests/check.h"
#include "tests/models/small_model.h"

using namespace foveal;
using gguf_writer::Document;

namespace {

TextParams read(const Document& d) {
  const gguf_writer::Bytes bytes = d.bytes();
  return read_text_params(*Gguf::parse(bytes, "small.gguf"));
}

ErrorCode code_of(const Document& d) {
  try {
    read(d);
  } catch (const Error& e) {
    return e.code();
  }
  return ErrorCode::state;
}

SmallModel small(const std::string& arch) {
  SmallModel m;
  m.arch = arch;
  m.qkv_bias = arch == "qwen2" || arch == "qwen2vl";
  m.qk_norm = arch == "qwen3" || arch == "qwen3vl" || arch == "gemma3";
  m.post_norms = arch == "gemma3";
  return m;
}

const char* const kArchs[] = {"llama", "qwen2", "qwen2vl", "qwen3", "qwen3vl", "gemma3"};

}  // namespace

TEST(good_files) {
  for (const char* arch : kArchs) {
    const TextParams p = read(small(arch).document());
    CHECK_EQ(p.arch, std::string(arch));
    CHECK_EQ(p.name, std::string("small"));
    CHECK(p.n_layer == 2 && p.n_head == 4 && p.n_head_kv == 2 && p.head_dim == 8 && p.n_rot == 8);
    CHECK(p.n_embd == 32 && p.n_ff == 48 && p.n_vocab == 40 && p.n_ctx_train == 512);
    CHECK_NEAR(p.attend.scale, 0.35355339, 1e-7);
    CHECK_EQ(p.mrope, std::string(arch).ends_with("vl"));
    CHECK_EQ(p.n_rope_tables, std::string(arch) == "gemma3" ? 2 : 1);
  }
}

TEST(defaults_of_absent_keys) {
  Document d = SmallModel{}.document();
  d.remove("llama.attention.key_length").remove("llama.attention.value_length").remove("llama.rope.freq_base");
  CHECK_EQ(read(d).head_dim, 8);
  SmallModel all_heads;
  all_heads.n_head_kv = 4;
  d = all_heads.document();
  d.remove("llama.attention.head_count_kv");
  CHECK_EQ(read(d).n_head_kv, 4);
  SmallModel wide;  // heads wider than n_embd / n_head
  wide.head_dim = 16;
  CHECK_EQ(read(wide.document()).head_dim, 16);
  d = SmallModel{}.document();
  d.array<int32_t>("llama.attention.head_count_kv", gguf_writer::I32, {2, 2});
  d.array<uint32_t>("llama.feed_forward_length", gguf_writer::U32, {48, 48});
  CHECK_EQ(read(d).n_head_kv, 2);
}

TEST(sliding_windows_of_gemma3) {
  SmallModel m = small("gemma3");
  m.n_layer = 7;
  Document d = m.document();
  CHECK_EQ(read(d).sliding_window, (std::vector<int>{4, 4, 4, 4, 4, 0, 4}));
  d.u32("gemma3.attention.sliding_window_pattern", 2);
  CHECK_EQ(read(d).sliding_window, (std::vector<int>{4, 0, 4, 0, 4, 0, 4}));
  d.array<uint8_t>("gemma3.attention.sliding_window_pattern", gguf_writer::BOOL, {1, 1, 0, 0, 1, 1, 1});
  CHECK_EQ(read(d).sliding_window, (std::vector<int>{4, 4, 0, 0, 4, 4, 4}));
  d.f32("gemma3.attn_logit_softcapping", 50);
  CHECK_EQ(read(d).attend.softcap, 50.0f);
}

TEST(unknown_architectures_list_the_known) {
  Document d = SmallModel{}.document();
  d.string("general.architecture", "mamba");
  CHECK_THROWS(Error, "found 'mamba', supported are llama, qwen2, qwen2vl, qwen3, qwen3vl, gemma3", read(d));
  CHECK_EQ(code_of(d), ErrorCode::unsupported);
  d.remove("general.architecture");
  CHECK_THROWS(Error, "found none, supported are llama", read(d));
  CHECK_EQ(code_of(d), ErrorCode::unsupported);
}

TEST(required_keys) {
  for (const char* name : {"block_count", "context_length", "embedding_length", "feed_forward_length",
                           "attention.head_count", "attention.layer_norm_rms_epsilon"}) {
    const std::string key = std::string("llama.") + name;
    Document d = SmallModel{}.document();
    d.remove(key);
    CHECK_THROWS(Error, "is missing", read(d));
    CHECK_THROWS(Error, key.c_str(), read(d));
    CHECK_EQ(code_of(d), ErrorCode::file_format);
    d.string(key, "many");
    CHECK_THROWS(Error, key.c_str(), read(d));
    CHECK_EQ(code_of(d), ErrorCode::file_format);
  }
  Document d = small("qwen2vl").document();
  d.remove("qwen2vl.rope.dimension_sections");
  CHECK_THROWS(Error, "'qwen2vl.rope.dimension_sections' is missing", read(d));
  d = small("gemma3").document();
  d.remove("gemma3.attention.sliding_window");
  CHECK_EQ(read(d).sliding_window, std::vector<int>(static_cast<size_t>(read(d).n_layer), 0));
}

TEST(integers_out_of_range) {
  const struct {
    const char* key;
    int64_t bad[3];
  } cases[] = {
      {"llama.block_count", {0, 513, -1}},
      {"llama.context_length", {0, int64_t{1} << 31, -1}},
      {"llama.embedding_length", {0, int64_t{1} << 21, -32}},
      {"llama.feed_forward_length", {0, int64_t{1} << 40, -1}},
      {"llama.attention.head_count", {0, 5000, -4}},
      {"llama.attention.head_count_kv", {0, 5000, -2}},
      {"llama.attention.key_length", {0, 1025, -8}},
      {"llama.attention.value_length", {0, 1025, -8}},
      {"llama.rope.dimension_count", {0, 10, -8}},
      {"llama.rope.scaling.original_context_length", {0, int64_t{1} << 40, -1}},
  };
  for (const auto& c : cases)
    for (const int64_t bad : c.bad) {
      Document d = SmallModel{}.document();
      d.number<int64_t>(c.key, gguf_writer::I64, bad);
      CHECK_THROWS(Error, c.key, read(d));
      CHECK_EQ(code_of(d), ErrorCode::file_format);
    }
}

TEST(floats_out_of_range) {
  const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
  for (const char* key : {"llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base", "llama.rope.scaling.factor",
                          "llama.rope.scaling.attn_factor", "llama.rope.scaling.yarn_beta_fast"})
    for (const float bad : {nan, inf, -inf, -1.0f, 1e30f}) {
      Document d = SmallModel{}.document();
      d.f32(key, bad);
      CHECK_THROWS(Error, key, read(d));
      CHECK_EQ(code_of(d), ErrorCode::file_format);
    }
  Document d = SmallModel{}.document();
  d.f32("llama.attention.layer_norm_rms_epsilon", 0);
  CHECK_THROWS(Error, "layer_norm_rms_epsilon", read(d));
  d = SmallModel{}.document();
  d.f32("llama.rope.freq_base", 1);
  CHECK_THROWS(Error, "rope.freq_base", read(d));
}

TEST(keys_that_contradict_each_other) {
  Document d = SmallModel{}.document();
  d.u32("llama.attention.head_count_kv", 3);
  CHECK_THROWS(Error, "found 3, expected a divisor of head_count, 4", read(d));
  d = SmallModel{}.document();
  d.u32("llama.attention.head_count_kv", 8);
  CHECK_THROWS(Error, "found 8, expected a divisor of head_count, 4", read(d));
  d = SmallModel{}.document();
  d.remove("llama.attention.key_length").u32("llama.attention.head_count", 6).u32("llama.attention.head_count_kv", 2);
  CHECK_THROWS(Error, "found 6, expected a divisor of embedding_length, 32", read(d));
  d = SmallModel{}.document();
  d.u32("llama.rope.dimension_count", 7);
  CHECK_THROWS(Error, "found 7, expected an even number", read(d));
  d = small("qwen2vl").document();
  d.array<int32_t>("qwen2vl.rope.dimension_sections", gguf_writer::I32, {2, 1, 2, 0});
  CHECK_THROWS(Error, "sum to 5, expected half the rotated dimensions, 4", read(d));
  d.array<int32_t>("qwen2vl.rope.dimension_sections", gguf_writer::I32, {2, 1, 1, 1});
  CHECK_THROWS(Error, "a fourth of 0", read(d));
  d.array<int32_t>("qwen2vl.rope.dimension_sections", gguf_writer::I32, {2, 2});
  CHECK_THROWS(Error, "rope.dimension_sections", read(d));
  d.array<int32_t>("qwen2vl.rope.dimension_sections", gguf_writer::I32, {-1, 2, 3, 0});
  CHECK_THROWS(Error, "rope.dimension_sections", read(d));
  d = SmallModel{}.document();
  d.strings("tokenizer.ggml.tokens", std::vector<std::string>(39, "x"));
  CHECK_THROWS(Error, "found 39 words, expected one a row of 'token_embd.weight' [32, 40]", read(d));
}

TEST(legal_but_unsupported) {
  const std::function<void(Document&)> cases[] = {
      [](Document& d) { d.u32("llama.expert_count", 8); },
      [](Document& d) { d.u32("llama.attention.value_length", 16); },
      [](Document& d) { d.string("llama.rope.scaling.type", "longrope"); },
      [](Document& d) {
        d.array<int32_t>("llama.attention.head_count", gguf_writer::I32, {4, 2});
      },
  };
  for (const auto& change : cases) {
    Document d = SmallModel{}.document();
    change(d);
    CHECK_EQ(code_of(d), ErrorCode::unsupported);
  }
}

TEST(tensors_missing_or_misshapen) {
  SmallModel m;
  m.n_layer = 3;
  Document d = m.document();
  std::erase_if(d.tensors, [](const auto& t) { return t.name.starts_with("blk.2."); });
  CHECK_THROWS(Error, "tensor 'blk.2.attn_norm.weight' of shape [32] is missing", read(d));
  d = SmallModel{}.document();
  d.u32("llama.block_count", 512);
  CHECK_THROWS(Error, "'blk.2.attn_norm.weight'", read(d));
  const struct {
    const char* key;
    uint32_t value;
    const char* tensor;
  } shapes[] = {{"llama.embedding_length", 16, "token_embd.weight"},
                {"llama.feed_forward_length", 64, "ffn_gate.weight"},
                {"llama.attention.head_count", 2, "attn_q.weight"},
                {"llama.attention.head_count_kv", 1, "attn_k.weight"}};
  for (const auto& c : shapes) {
    d = SmallModel{}.document();
    d.u32(c.key, c.value);
    CHECK_THROWS(Error, c.tensor, read(d));
    CHECK_THROWS(Error, "expected shape [", read(d));
    CHECK_THROWS(Error, "found [", read(d));
  }
  for (const char* arch : kArchs) {  // every tensor of the file is needed, but for biases
    const Document whole = small(arch).document();
    for (size_t i = 0; i < whole.tensors.size(); ++i) {
      d = whole;
      const std::string name = d.tensors[i].name;
      d.tensors.erase(d.tensors.begin() + static_cast<std::ptrdiff_t>(i));
      if (name.ends_with(".bias")) {
        CHECK_EQ(read(d).n_layer, 2);
        continue;
      }
      CHECK_THROWS(Error, ("'" + name + "'").c_str(), read(d));
      CHECK_EQ(code_of(d), ErrorCode::file_format);
    }
    CHECK_EQ(read(whole).n_layer, 2);
  }
  d = SmallModel{}.document();
  d.floats("rope_freqs.weight", {5});
  CHECK_THROWS(Error, "'rope_freqs.weight': expected shape [4], found [5]", read(d));
}
