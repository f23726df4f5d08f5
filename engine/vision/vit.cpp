// The pre-norm transformer block of CLIP, SigLIP, InternViT and Qwen-VL: x += ls1 * attn(norm(x)); x += ls2 *
// ffn(norm(x)).
#include "engine/vision/vit.h"

#include <algorithm>
#include <cmath>

namespace foveal {

Mat Arena::take(int64_t rows, int64_t cols) {
  const int64_t at = used_;
  used_ += (rows * cols + 15) / 16 * 16;  // pieces start on 64 bytes
  return Mat(measuring_ ? nullptr : memory_.data() + at, rows, cols);
}

void Norm::operator()(Backend& b, Mat out, ConstMat x) const {
  if (bias.size() == 0) {
    b.rms_norm(out, x, weight.data(), eps);
  } else {
    b.layer_norm(out, x, weight.data(), bias.data(), eps);
  }
}

void Linear::operator()(Backend& b, Mat out, ConstMat x) const {
  b.matmul(out, *weight, x, bias.size() == 0 ? nullptr : bias.data());
}

void Mlp::operator()(Backend& b, Mat out, ConstMat x, Mat hidden) const {
  first(b, hidden, x);
  b.act(hidden, Act::gelu_erf);
  second(b, out, hidden);
}

// q, k, v of block `prefix` as one matrix, whether the file fused them or not; each may have a bias.
static Linear load_qkv(const Loader& load, const std::string& prefix, int64_t n_embd) {
  if (load.file.find_tensor(prefix + "attn_qkv.weight"))
    return load.block_linear(prefix + "attn_qkv", n_embd, 3 * n_embd);
  const TensorInfo* parts[3];
  Linear qkv;
  bool biased = false;
  for (const char* name : {"attn_q.bias", "attn_k.bias", "attn_v.bias"})
    biased = biased || load.file.find_tensor(prefix + name);
  if (biased) {
    qkv.bias = Buffer<float>(static_cast<size_t>(3 * n_embd), load.backend.memory());
    load.backend.copy_in(qkv.bias.data(), std::vector<float>(qkv.bias.size(), 0.0f).data(), qkv.bias.bytes());
  }
  for (int i = 0; i < 3; ++i) {
    const std::string name = prefix + "attn_" + "qkv"[i];
    parts[i] = &load.file.tensor(name + ".weight", {n_embd, n_embd});
    const Buffer<float> part = load.optional_floats(name + ".bias", n_embd);
    if (part.size() > 0) load.backend.copy(qkv.bias.data() + i * n_embd, part.data(), part.bytes());
  }
  qkv.weight = load.product(parts);
  return qkv;
}

// Old files call fc1 "ffn_down" and fc2 "ffn_up": the shapes tell.
static bool ffn_names_swapped(const Gguf& file, const std::string& prefix, int64_t n_embd) {
  return file.tensor(prefix + "ffn_down.weight").cols() == n_embd &&
         file.tensor(prefix + "ffn_up.weight").cols() != n_embd;
}

static VitBlock load_block(const Loader& load, const VisionHeader& h, int il, int64_t n_ff) {
  const std::string p = cat("v.blk.", il, ".");
  const int64_t E = h.n_embd;
  const bool swapped = ffn_names_swapped(load.file, p, E);
  VitBlock b;
  b.ln1 = load.norm(p + "ln1", E, h.eps);
  b.ln2 = load.norm(p + "ln2", E, h.eps);
  if (load.file.find_tensor(p + "attn_q_norm.weight")) {
    b.q_norm = load.norm(p + "attn_q_norm", E, h.eps);
    b.k_norm = load.norm(p + "attn_k_norm", E, h.eps);
  }
  b.qkv = load_qkv(load, p, E);
  b.out = load.block_linear(p + "attn_out", E, E);
  b.up = load.block_linear(p + (swapped ? "ffn_down" : "ffn_up"), E, n_ff);
  b.down = load.block_linear(p + (swapped ? "ffn_up" : "ffn_down"), n_ff, E);
  if (load.file.find_tensor(p + "ffn_gate.weight")) b.gate = load.block_linear(p + "ffn_gate", E, n_ff);
  b.ls1 = load.optional_floats(p + "ls1.weight", E);
  b.ls2 = load.optional_floats(p + "ls2.weight", E);
  return b;
}

Vit::Vit(const Loader& load, const VisionHeader& header, int n_layer)
    : n_embd_(header.n_embd), n_head_(header.n_head), act_(header.act) {
  // The hidden width is read from the tensors: the key is wrong in some published files.
  const bool swapped = n_layer > 0 && ffn_names_swapped(load.file, "v.blk.0.", n_embd_);
  if (n_layer > 0) n_ff_ = load.outputs(swapped ? "v.blk.0.ffn_down" : "v.blk.0.ffn_up", n_embd_);
  for (int il = 0; il < n_layer; ++il) blocks_.push_back(load_block(load, header, il, n_ff_));
}

VitScratch Vit::scratch(Arena& arena, int64_t n_rows, int patch) const {
  VitScratch s;
  s.x = arena.take(n_rows, n_embd_);
  s.normed = arena.take(n_rows, n_embd_);
  s.attended = arena.take(n_rows, n_embd_);
  // Also one row of the gated hidden layer must fit, however short the picture.
  const int64_t hidden = (2 * n_ff_ + n_rows - 1) / n_rows;
  s.wide = arena.take(n_rows, std::max({3 * n_embd_, int64_t{3} * patch * patch, hidden}));
  return s;
}

// s.x += ls2 * down(act(up(norm(x)))), in slices of rows whose hidden layer fits in s.wide.
void Vit::feed_forward(Backend& b, const VitBlock& block, VitScratch& s) const {
  const bool gated = block.gate.weight != nullptr;
  const int64_t width = gated ? 2 * n_ff_ : n_ff_;
  const int64_t slice = std::min(s.x.rows, s.wide.rows * s.wide.cols / width);
  block.ln2(b, s.normed, s.x);
  for (int64_t at = 0; at < s.x.rows; at += slice) {
    const int64_t n = std::min(slice, s.x.rows - at);
    const ConstMat in = s.normed.rows_at(at, n);
    const Mat up(s.wide.data, n, n_ff_), gate(s.wide.data + n * n_ff_, n, n_ff_);
    block.up(b, up, in);
    if (gated) {
      block.gate(b, gate, in);
      b.gated_act(gate, gate, up, act_);
    } else {
      b.act(up, act_);
    }
    block.down(b, s.attended.rows_at(at, n), gated ? gate : up);
  }
  b.add(s.x, s.attended, block.ls2.size() == 0 ? nullptr : block.ls2.data());
}

void Vit::layer(Backend& b, int il, VitScratch& s, std::span<const int32_t> segments, const ConstMat* rope) const {
  const VitBlock& block = blocks_[static_cast<size_t>(il)];
  const int64_t E = n_embd_;
  const Mat qkv(s.wide.data, s.x.rows, 3 * E);
  const Mat q = qkv.cols_at(0, E), k = qkv.cols_at(E, E), v = qkv.cols_at(2 * E, E);
  block.ln1(b, s.normed, s.x);
  block.qkv(b, qkv, s.normed);
  if (block.q_norm.weight.size() != 0) {
    block.q_norm(b, q, q);
    block.k_norm(b, k, k);
  }
  if (rope) b.rope(qkv.cols_at(0, 2 * E), 2 * n_head_, *rope, RopeStyle::half_split);
  const float scale = 1.0f / std::sqrt(static_cast<float>(E / n_head_));
  b.attend_full(s.attended, q, k, v, n_head_, segments, scale);
  block.out(b, s.normed, s.attended);
  b.add(s.x, s.normed, block.ls1.size() == 0 ? nullptr : block.ls1.data());
  feed_forward(b, block, s);
}

Matrix to_host(Backend& b, Matrix there) {
  if (!b.memory()) return there;
  Matrix here(there.rows(), there.cols());
  b.copy_out(here.view().data, there.view().data, there.bytes());
  return here;
}

void throw_if_cancelled(const CancelFlag* cancel) {
  if (cancel && cancel->load(std::memory_order_relaxed))
    fail(ErrorCode::state, "cancelled while a picture was encoded");
}

}  // namespace foveal
