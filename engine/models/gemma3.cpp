// Gemma 3 (arXiv 2503.19786): five layers with a sliding window and their own RoPE base to one that sees everything;
// norms before and after each branch; GEGLU. The files' norm weights have their + 1 already.
#include <cmath>

#include "engine/core/error.h"
#include "engine/models/architectures.h"
#include "engine/models/hparams.h"
#include "engine/models/rope.h"
#include "engine/models/weights.h"

namespace foveal {
namespace {

enum Table { everywhere, local };  // of RoPE

// attention.sliding_window_pattern: a bool a layer (true: local), or a period whose last layer sees everything.
void read_sliding_window(const Gguf& file, TextParams& p) {
  const std::string key = p.arch + ".attention.sliding_window", pattern = key + "_pattern";
  const auto window = static_cast<int>(file.find_int(key, 0, 1 << 30).value_or(0));
  if (window == 0) return;  // every layer sees everything
  const auto n = static_cast<uint64_t>(p.n_layer);
  if (file.is_array(pattern)) {
    const std::vector<bool> is_local = *file.find_bools(pattern, n, n);
    for (size_t il = 0; il < is_local.size(); ++il) p.sliding_window[il] = is_local[il] ? window : 0;
    return;
  }
  const auto period = static_cast<size_t>(file.find_int(pattern, 1, 512).value_or(6));
  for (size_t il = 0; il < p.sliding_window.size(); ++il) p.sliding_window[il] = il % period == period - 1 ? 0 : window;
}

RopeParams local_rope(const Gguf& file, const TextParams& p) {
  RopeParams r;
  r.n_rot = p.n_rot;
  r.base = file.find_float(p.arch + ".rope.freq_base_swa", 1.001, 1e15).value_or(10000.0);
  return r;
}

TextParams read_params(const Gguf& file) {
  TextParams p = read_common_params(file);
  read_rope_params(file, p);
  local_rope(file, p);
  read_sliding_window(file, p);
  p.n_rope_tables = 2;
  // The 27B model divides by the width of a head as it would be without key_length; no key says so.
  if (p.n_layer == 62) p.attend.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(p.n_embd) / p.n_head));
  p.attend.softcap = static_cast<float>(file.find_float(p.arch + ".attn_logit_softcapping", 0, 1e6).value_or(0));
  file.find_float(p.arch + ".final_logit_softcapping", 0, 1e6);
  check_tensors(file, p, {.qk_norm = true, .post_norms = true});
  return p;
}

class Gemma3 final : public TextModel {
 public:
  Gemma3(std::shared_ptr<const Gguf> file, Backend& backend, ModelPart part)
      : TextModel(read_params(*file)),
        file_(std::move(file)),
        backend_(backend),
        weights_(*file_, backend, params_, part),
        rope_everywhere_(read_rope_params(*file_, params_)),
        rope_local_(local_rope(*file_, params_)),
        softcap_(static_cast<float>(file_->find_float(params_.arch + ".final_logit_softcapping", 0, 1e6).value_or(0))) {
  }

  // Only token rows are scaled: picture rows come as they should be.
  void embed(Mat x, std::span<const int32_t> ids) const override {
    backend_.embed_rows(x, *weights_.token_embd, ids);
    backend_.scale(x, static_cast<float>(std::sqrt(static_cast<double>(params_.n_embd))));
  }

  void rope_rows(Mat cs, std::span<const Position> pos, int table) const override {
    (table == local ? rope_local_ : rope_everywhere_).rows(cs, pos);
  }

  void layer(int il, Mat x, std::span<const ConstMat> rope, LayerKv& kv, LayerScratch& s) const override {
    const BlockWeights& w = weights_.blocks[static_cast<size_t>(il)];
    const LayerViews r(s, params_, x.rows);
    const Table table = params_.sliding_window[static_cast<size_t>(il)] > 0 ? local : everywhere;

    backend_.rms_norm(r.normed, x, w.attn_norm.data(), params_.eps);
    backend_.matmul(r.qkv, *w.qkv, r.normed, w.qkv_bias.data());
    norm_heads(backend_, r.q, params_.n_head, w.q_norm.data(), params_.eps);
    norm_heads(backend_, r.k, params_.n_head_kv, w.k_norm.data(), params_.eps);
    backend_.rope(r.q_and_k, params_.n_head + params_.n_head_kv, rope[table], RopeStyle::half_split);
    kv.attend(r.attended, r.q, r.k, r.v);
    backend_.matmul(r.branch, *w.attn_output, r.attended, w.attn_output_bias.data());
    backend_.rms_norm(r.branch, r.branch, w.post_attention_norm.data(), params_.eps);
    backend_.add(x, r.branch);

    backend_.rms_norm(r.normed, x, w.ffn_norm.data(), params_.eps);
    feed_forward(backend_, w, r, Act::gelu_tanh);
    backend_.rms_norm(r.branch, r.branch, w.post_ffw_norm.data(), params_.eps);
    backend_.add(x, r.branch);
  }

  void head(Mat logits, Mat x) const override {
    output_head(backend_, weights_, logits, x, params_.eps);
    for (int64_t it = 0; softcap_ > 0 && it < logits.rows; ++it)
      for (int64_t i = 0; i < logits.cols; ++i) logits.row(it)[i] = softcap_ * std::tanh(logits.row(it)[i] / softcap_);
  }

 private:
  std::shared_ptr<const Gguf> file_;
  Backend& backend_;
  DecoderWeights weights_;
  RopeTable rope_everywhere_, rope_local_;
  float softcap_;  // of the logits; 0: none
};

std::unique_ptr<TextModel> load(std::shared_ptr<const Gguf> file, Backend& backend, ModelPart part) {
  return std::make_unique<Gemma3>(std::move(file), backend, part);
}

}  // namespace

extern const Architecture kGemma3;
const Architecture kGemma3 = {"gemma3", read_params, load};

}  // namespace foveal
