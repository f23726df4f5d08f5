// Loading: projections that read the same rows are stacked, so that one product serves them.
#include "engine/models/weights.h"

#include <algorithm>

namespace foveal {
namespace {

Buffer<float> optional_floats(const Gguf& file, Backend& backend, const std::string& name) {
  const TensorInfo* t = file.find_tensor(name);
  return t ? backend.load_floats(*t) : Buffer<float>();
}

struct Part {
  std::string name;
  int64_t rows;
};

// The parts' biases one after the other, zeros for a part that has none; empty when no part has one.
Buffer<float> stacked_bias(const Gguf& file, Backend& backend, std::span<const Part> parts) {
  int64_t rows = 0;
  bool any = false;
  for (const Part& part : parts) {
    rows += part.rows;
    any = any || file.find_tensor(part.name + ".bias");
  }
  if (!any) return {};
  Buffer<float> out(static_cast<size_t>(rows), backend.memory());
  float* to = out.data();
  for (const Part& part : parts) {
    const Buffer<float> bias = optional_floats(file, backend, part.name + ".bias");
    const auto bytes = static_cast<size_t>(part.rows) * sizeof(float);
    if (bias.size() > 0) {
      backend.copy(to, bias.data(), bytes);
    } else {
      backend.copy_in(to, std::vector<float>(static_cast<size_t>(part.rows), 0.0f).data(), bytes);
    }
    to += part.rows;
  }
  return out;
}

BlockWeights load_block(const Gguf& file, Backend& backend, const TextParams& p, int il, WeightStream* stream) {
  const std::string b = "blk." + std::to_string(il) + ".";
  const int64_t n_q = int64_t{p.n_head} * p.head_dim, n_kv = int64_t{p.n_head_kv} * p.head_dim;
  const Part q_k_v[] = {{b + "attn_q", n_q}, {b + "attn_k", n_kv}, {b + "attn_v", n_kv}};
  const Part fused[] = {{b + "attn_qkv", n_q + 2 * n_kv}};
  const Part gate_up[] = {{b + "ffn_gate", p.n_ff}, {b + "ffn_up", p.n_ff}};
  const Part output[] = {{b + "attn_output", p.n_embd}}, down[] = {{b + "ffn_down", p.n_embd}};
  const auto matrix = [&](std::span<const Part> parts) {
    std::vector<const TensorInfo*> tensors;
    for (const Part& part : parts) tensors.push_back(&file.tensor(part.name + ".weight"));
    return stream ? stream->load_matrix(il, tensors) : backend.load_matrix(tensors);
  };
  BlockWeights w;
  w.attn_norm = backend.load_floats(file.tensor(b + "attn_norm.weight"));
  const bool is_fused = file.find_tensor(b + "attn_qkv.weight");
  w.qkv = matrix(is_fused ? std::span<const Part>(fused) : q_k_v);
  w.qkv_bias =
      stacked_bias(file, backend, file.find_tensor(b + "attn_qkv.bias") ? std::span<const Part>(fused) : q_k_v);
  w.q_norm = optional_floats(file, backend, b + "attn_q_norm.weight");
  w.k_norm = optional_floats(file, backend, b + "attn_k_norm.weight");
  w.attn_output = matrix(output);
  w.attn_output_bias = optional_floats(file, backend, b + "attn_output.bias");
  w.post_attention_norm = optional_floats(file, backend, b + "post_attention_norm.weight");
  w.ffn_norm = backend.load_floats(file.tensor(b + "ffn_norm.weight"));
  w.gate_up = matrix(gate_up);
  w.gate_up_bias = stacked_bias(file, backend, gate_up);
  w.ffn_down = matrix(down);
  w.ffn_down_bias = optional_floats(file, backend, b + "ffn_down.bias");
  w.post_ffw_norm = optional_floats(file, backend, b + "post_ffw_norm.weight");
  return w;
}

}  // namespace

DecoderWeights::DecoderWeights(const Gguf& file, Backend& backend, const TextParams& p, ModelPart part) {
  const TensorInfo& embedding = file.tensor("token_embd.weight");
  const TensorInfo* own_output = file.find_tensor("output.weight");
  if (part.embedding) token_embd = backend.load_table(embedding);
  blocks.resize(static_cast<size_t>(p.n_layer));
  for (int il = part.first; il < std::min(part.stop, p.n_layer); ++il)
    blocks[static_cast<size_t>(il)] = load_block(file, backend, p, il, part.stream);
  if (!part.output) return;
  output_norm = backend.load_floats(file.tensor("output_norm.weight"));
  output = backend.load_matrix(own_output ? *own_output : embedding);
  output_bias = optional_floats(file, backend, "output.bias");
}

LayerScratch::LayerScratch(const TextParams& p, int64_t max_rows, Memory* memory)
    : normed(max_rows, p.n_embd, memory),
      qkv(max_rows, int64_t{p.n_head + 2 * p.n_head_kv} * p.head_dim, memory),
      attended(max_rows, int64_t{p.n_head} * p.head_dim, memory),
      branch(max_rows, p.n_embd, memory),
      gate_up(max_rows, 2 * int64_t{p.n_ff}, memory) {}

size_t LayerScratch::bytes() const {
  return normed.bytes() + qkv.bytes() + attended.bytes() + branch.bytes() + gate_up.bytes();
}

LayerViews::LayerViews(LayerScratch& s, const TextParams& p, int64_t rows)
    : normed(s.normed.view().rows_at(0, rows)),
      qkv(s.qkv.view().rows_at(0, rows)),
      attended(s.attended.view().rows_at(0, rows)),
      branch(s.branch.view().rows_at(0, rows)),
      gate_up(s.gate_up.view().rows_at(0, rows)) {
  const int64_t n_q = int64_t{p.n_head} * p.head_dim, n_kv = int64_t{p.n_head_kv} * p.head_dim;
  q = qkv.cols_at(0, n_q);
  k = qkv.cols_at(n_q, n_kv);
  v = qkv.cols_at(n_q + n_kv, n_kv);
  q_and_k = qkv.cols_at(0, n_q + n_kv);
  gate = gate_up.cols_at(0, p.n_ff);
  up = gate_up.cols_at(p.n_ff, p.n_ff);
}

void norm_heads(Backend& backend, Mat x, int n_head, const float* w, float eps) {
  const int64_t d = x.cols / n_head;
  if (x.rows < n_head) {  // few rows: all heads of a row at once
    for (int64_t it = 0; it < x.rows; ++it) {
      const Mat heads(x.row(it), n_head, d);
      backend.rms_norm(heads, heads, w, eps);
    }
    return;
  }
  for (int64_t ih = 0; ih < n_head; ++ih) {
    const Mat head = x.cols_at(ih * d, d);
    backend.rms_norm(head, head, w, eps);
  }
}

void feed_forward(Backend& backend, const BlockWeights& w, const LayerViews& r, Act act) {
  backend.matmul(r.gate_up, *w.gate_up, r.normed, w.gate_up_bias.data());
  backend.gated_act(r.gate, r.gate, r.up, act);
  backend.matmul(r.branch, *w.ffn_down, r.gate, w.ffn_down_bias.data());
}

void output_head(Backend& backend, const DecoderWeights& w, Mat logits, Mat x, float eps) {
  backend.rms_norm(x, x, w.output_norm.data(), eps);
  backend.matmul_out(logits, *w.output, x, w.output_bias.data());
}

}  // namespace foveal
