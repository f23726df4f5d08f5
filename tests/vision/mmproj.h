// The smallest legal mmproj file of every family, for tests that need a header to bend or an encoder to run.
#pragma once

#include "engine/vision/vision.h"
#include "tests/gguf/writer.h"

namespace mmproj {

using gguf_writer::Bytes;
using gguf_writer::Document;

constexpr int kWidth = 8, kHidden = 16, kOut = 12;  // encoder rows, its hidden layer, rows of the text model

// Numbers in [-0.5, 0.5], the same for the same name.
inline void weights(Document& d, const std::string& name, const std::vector<int64_t>& ne) {
  uint32_t state = 1;
  for (const char c : name) state = state * 31 + static_cast<unsigned char>(c);
  Bytes data;
  int64_t n = 1;
  for (const int64_t e : ne) n *= e;
  for (int64_t i = 0; i < n; ++i) {
    state = state * 1664525u + 1013904223u;
    gguf_writer::put(data, static_cast<float>(state >> 8) / static_cast<float>(1 << 24) - 0.5f);
  }
  d.tensor(name, ne, 0, data);
}
inline void linear(Document& d, const std::string& prefix, int64_t in, int64_t out, bool bias = true) {
  weights(d, prefix + ".weight", {in, out});
  if (bias) weights(d, prefix + ".bias", {out});
}
inline void norm(Document& d, const std::string& prefix, int64_t n, bool bias = true) {
  weights(d, prefix + ".weight", {n});
  if (bias) weights(d, prefix + ".bias", {n});
}

inline void header(Document& d, const std::string& projector, uint32_t image_size, uint32_t patch) {
  d.string("general.architecture", "clip").string("clip.projector_type", projector);
  d.number<uint8_t>("clip.has_vision_encoder", gguf_writer::BOOL, 1);
  d.u32("clip.vision.image_size", image_size).u32("clip.vision.patch_size", patch);
  d.u32("clip.vision.embedding_length", kWidth).u32("clip.vision.feed_forward_length", kHidden);
  d.u32("clip.vision.block_count", 2).u32("clip.vision.attention.head_count", 2);
  d.f32("clip.vision.attention.layer_norm_epsilon", 1e-6f);
  d.array<float>("clip.vision.image_mean", gguf_writer::F32, {0.5f, 0.4f, 0.3f});
  d.array<float>("clip.vision.image_std", gguf_writer::F32, {0.5f, 0.25f, 0.2f});
}

inline void blocks(Document& d, bool rms = false, bool gated = false, bool layer_scale = false) {
  for (int il = 0; il < 2; ++il) {
    const std::string p = "v.blk." + std::to_string(il) + ".";
    norm(d, p + "ln1", kWidth, !rms);
    norm(d, p + "ln2", kWidth, !rms);
    for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_out"}) linear(d, p + name, kWidth, kWidth);
    linear(d, p + "ffn_up", kWidth, kHidden);
    linear(d, p + "ffn_down", kHidden, kWidth);
    if (gated) linear(d, p + "ffn_gate", kWidth, kHidden);
    if (layer_scale) weights(d, p + "ls1.weight", {kWidth}), weights(d, p + "ls2.weight", {kWidth});
  }
}

inline void patches(Document& d, int64_t patch, bool bias) {
  weights(d, "v.patch_embd.weight", {patch, patch, 3, kWidth});
  if (bias) weights(d, "v.patch_embd.bias", {kWidth});
}

inline const std::vector<std::string>& families() {
  static const std::vector<std::string> names = {"qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger", "llava-1.5",
                                                 "llava-1.6",      "internvl",         "idefics3",       "gemma3"};
  return names;
}

// Tiles of 8x8 pixels with patches of 2 (gemma3: 16x16); Qwen rows are 4x4 pixels.
inline Document file(const std::string& family) {
  Document d;
  const int64_t merged = 4 * kWidth;
  if (family.starts_with("qwen")) {
    header(d, family, 64, 2);
    const bool v25 = family == "qwen2.5vl_merger", v3 = family == "qwen3vl_merger";
    patches(d, 2, v3);
    weights(d, "v.patch_embd.weight.1", {2, 2, 3, kWidth});
    blocks(d, v25, v25);
    norm(d, "v.post_ln", kWidth, !v25);
    linear(d, "mm.0", merged, merged);
    linear(d, "mm.2", merged, kOut);
    if (v25) d.number<uint8_t>("clip.use_silu", gguf_writer::BOOL, 1).u32("clip.vision.n_wa_pattern", 2);
    if (v25) d.u32("clip.vision.window_size", 8);
    if (v3) {
      d.number<uint8_t>("clip.use_gelu", gguf_writer::BOOL, 1);
      d.array<uint8_t>("clip.vision.is_deepstack_layers", gguf_writer::BOOL, {1, 0});
      weights(d, "v.position_embd.weight", {kWidth, 9});
      norm(d, "v.deepstack.0.norm", merged);
      linear(d, "v.deepstack.0.fc1", merged, merged);
      linear(d, "v.deepstack.0.fc2", merged, kOut);
    }
  } else if (family.starts_with("llava")) {
    header(d, "mlp", 8, 2);
    patches(d, 2, false);
    weights(d, "v.class_embd", {kWidth});
    weights(d, "v.position_embd.weight", {kWidth, 17});
    norm(d, "v.pre_ln", kWidth);
    blocks(d);
    linear(d, "mm.0", kWidth, kHidden);
    linear(d, "mm.2", kHidden, kOut);
    if (family == "llava-1.6") {
      d.array<int32_t>("clip.vision.image_grid_pinpoints", gguf_writer::I32, {8, 16, 16, 8, 16, 16, 24, 8, 8, 24});
      d.string("clip.vision.mm_patch_merge_type", "spatial_unpad");
      weights(d, "model.image_newline", {kOut});
    }
  } else if (family == "internvl") {
    header(d, family, 8, 2);
    d.u32("clip.vision.projector.scale_factor", 2);
    patches(d, 2, true);
    weights(d, "v.class_embd", {kWidth, 1, 1});
    weights(d, "v.position_embd.weight", {kWidth, 17, 1});
    blocks(d, false, false, true);
    norm(d, "mm.model.mlp.0", merged);
    linear(d, "mm.model.mlp.1", merged, kOut);
    linear(d, "mm.model.mlp.3", kOut, kOut);
  } else if (family == "idefics3") {
    header(d, family, 8, 2);
    d.u32("clip.vision.projector.scale_factor", 2).u32("clip.vision.preproc_image_size", 32);
    patches(d, 2, true);
    weights(d, "v.position_embd.weight", {kWidth, 16});
    blocks(d);
    norm(d, "v.post_ln", kWidth);
    linear(d, "mm.model.fc", merged, kOut, false);
  } else {
    header(d, family, 16, 2);
    patches(d, 2, true);
    weights(d, "v.position_embd.weight", {kWidth, 64});
    blocks(d);
    norm(d, "v.post_ln", kWidth);
    weights(d, "mm.soft_emb_norm.weight", {kWidth});
    weights(d, "mm.input_projection.weight", {kOut, kWidth});
  }
  return d;
}

// The header of the text file that belongs to it.
inline Document text(const std::string& family) {
  const std::string arch = family == "qwen3vl_merger"   ? "qwen3vl"
                           : family.starts_with("qwen") ? "qwen2vl"
                           : family == "gemma3"         ? "gemma3"
                                                        : "llama";
  Document d;
  d.string("general.architecture", arch).u32(arch + ".embedding_length", kOut);
  if (arch == "qwen3vl") d.u32("qwen3vl.n_deepstack_layers", 1);
  return d;
}

// An encoder over files in memory, everything kept alive together.
struct Loaded {
  Bytes mmproj_bytes, text_bytes;
  std::unique_ptr<foveal::Backend> backend;
  std::unique_ptr<foveal::VisionEncoder> encoder;

  Loaded(const Document& mmproj, const Document& text, const foveal::VisionOptions& options = {})
      : mmproj_bytes(mmproj.bytes()), text_bytes(text.bytes()), backend(foveal::make_cpu_backend(1)) {
    const auto text_file = foveal::Gguf::parse(text_bytes, "text.gguf");
    encoder = foveal::load_vision(foveal::Gguf::parse(mmproj_bytes, "mmproj.gguf"), *text_file, *backend, options);
  }
  explicit Loaded(const std::string& family, const foveal::VisionOptions& options = {})
      : Loaded(file(family), text(family), options) {}
  const foveal::VisionEncoder* operator->() const { return encoder.get(); }
};

}  // namespace mmproj
