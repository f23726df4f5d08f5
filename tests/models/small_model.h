// A GGUF of a very small decoder with fixed pseudo-random weights, any of its keys or tensors changed by a test.
#pragma once

#include <cstdint>

#include "tests/gguf/writer.h"

struct SmallModel {
  std::string arch = "llama";
  uint32_t n_layer = 2, n_embd = 32, n_ff = 48, n_head = 4, n_head_kv = 2, head_dim = 8, n_vocab = 40;
  bool qkv_bias = false, qk_norm = false, post_norms = false, fused = false;

  gguf_writer::Document document() const {
    gguf_writer::Document d;
    const std::string a = arch + ".";
    d.string("general.architecture", arch).string("general.name", "small");
    d.u32(a + "block_count", n_layer).u32(a + "context_length", 512).u32(a + "embedding_length", n_embd);
    d.u32(a + "feed_forward_length", n_ff).u32(a + "attention.head_count", n_head);
    d.u32(a + "attention.head_count_kv", n_head_kv).u32(a + "attention.key_length", head_dim);
    d.u32(a + "attention.value_length", head_dim).f32(a + "attention.layer_norm_rms_epsilon", 1e-5f);
    d.f32(a + "rope.freq_base", 10000.0f);
    if (arch == "qwen2vl" || arch == "qwen3vl") {
      const auto half = static_cast<int32_t>(head_dim / 2);
      d.array<int32_t>(a + "rope.dimension_sections", gguf_writer::I32, {half - 2, 1, 1, 0});
    }
    if (arch == "gemma3") d.u32(a + "attention.sliding_window", 4);
    const int64_t q = n_head * head_dim, kv = n_head_kv * head_dim;
    add(d, "token_embd.weight", {n_embd, n_vocab});
    for (uint32_t il = 0; il < n_layer; ++il) {
      const std::string b = "blk." + std::to_string(il) + ".";
      add(d, b + "attn_norm.weight", {n_embd});
      add_stacked(d, b, q, kv);
      if (qk_norm) add(d, b + "attn_q_norm.weight", {head_dim});
      if (qk_norm) add(d, b + "attn_k_norm.weight", {head_dim});
      add(d, b + "attn_output.weight", {q, n_embd});
      if (post_norms) add(d, b + "post_attention_norm.weight", {n_embd});
      add(d, b + "ffn_norm.weight", {n_embd});
      add(d, b + "ffn_gate.weight", {n_embd, n_ff});
      add(d, b + "ffn_up.weight", {n_embd, n_ff});
      add(d, b + "ffn_down.weight", {n_ff, n_embd});
      if (post_norms) add(d, b + "post_ffw_norm.weight", {n_embd});
    }
    add(d, "output_norm.weight", {n_embd});
    return d;
  }

  // Numbers in [-0.5, 0.5) that depend on the name alone, so that a file's order of tensors doesn't matter.
  static gguf_writer::Bytes numbers(const std::string& name, int64_t n) {
    uint64_t state = 1469598103934665603ull;
    for (const char c : name) state = (state ^ static_cast<unsigned char>(c)) * 1099511628211ull;
    gguf_writer::Bytes out;
    for (int64_t i = 0; i < n; ++i) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      gguf_writer::put(out, static_cast<float>(state >> 40) / 16777216.0f - 0.5f);
    }
    return out;
  }

 private:
  static int64_t count(const std::vector<int64_t>& ne) {
    int64_t n = 1;
    for (const int64_t x : ne) n *= x;
    return n;
  }
  static void add(gguf_writer::Document& d, const std::string& name, const std::vector<int64_t>& ne) {
    d.tensor(name, ne, 0, numbers(name, count(ne)));
  }
  void add_stacked(gguf_writer::Document& d, const std::string& b, int64_t q, int64_t kv) const {
    const std::pair<const char*, int64_t> parts[] = {{"attn_q", q}, {"attn_k", kv}, {"attn_v", kv}};
    for (const char* kind : {".weight", ".bias"}) {
      const bool bias = std::string_view(kind) == ".bias";
      if (bias && !qkv_bias) continue;
      gguf_writer::Bytes all;
      for (const auto& [part, rows] : parts) {
        const std::vector<int64_t> ne = bias ? std::vector<int64_t>{rows} : std::vector<int64_t>{n_embd, rows};
        const gguf_writer::Bytes own = numbers(b + part + kind, count(ne));
        all.insert(all.end(), own.begin(), own.end());
        if (!fused) d.tensor(b + part + kind, ne, 0, own);
      }
      if (fused)
        d.tensor(b + "attn_qkv" + kind,
                 bias ? std::vector<int64_t>{q + 2 * kv} : std::vector<int64_t>{n_embd, q + 2 * kv}, 0, all);
    }
  }
};
