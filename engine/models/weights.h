// The weights of decoder blocks and of both ends, as GGUF names them, and the steps that blocks share.
#pragma once

#include "engine/models/text_model.h"

namespace foveal {

// One block. Norms and biases that the file lacks are empty (data() is nullptr).
struct BlockWeights {
  Buffer<float> attn_norm, q_norm, k_norm, post_attention_norm, ffn_norm, post_ffw_norm;
  WeightPtr qkv;  // q | k | v rows
  Buffer<float> qkv_bias;
  WeightPtr attn_output;
  Buffer<float> attn_output_bias;
  WeightPtr gate_up;  // gate | up rows
  Buffer<float> gate_up_bias;
  WeightPtr ffn_down;
  Buffer<float> ffn_down_bias;
};

struct DecoderWeights {
  DecoderWeights(const Gguf& file, Backend& backend, const TextParams& p, ModelPart part);
  WeightPtr token_embd;              // a table
  std::vector<BlockWeights> blocks;  // [n_layer], empty outside the part
  Buffer<float> output_norm;
  WeightPtr output;  // token_embd again when the file has none (tied)
  Buffer<float> output_bias;
};

// The scratch of T rows, by name.
struct LayerViews {
  LayerViews(LayerScratch& s, const TextParams& p, int64_t rows);
  Mat normed, qkv, attended, branch, gate_up;
  Mat q, k, v, q_and_k;  // columns of qkv
  Mat gate, up;          // columns of gate_up
};

// x [T, n_head * D]: RMS norm of every head's D numbers by itself, in place; w [D].
void norm_heads(Backend& backend, Mat x, int n_head, const float* w, float eps);
// r.branch = down(act(gate(r.normed)) * up(r.normed)): the gated feed-forward of all our decoders.
void feed_forward(Backend& backend, const BlockWeights& w, const LayerViews& r, Act act);
// logits = output(norm(x)) in host memory; x is overwritten.
void output_head(Backend& backend, const DecoderWeights& w, Mat logits, Mat x, float eps);

}  // namespace foveal
