// Llama 1 to 3, Mistral, SmolLM2 (arXiv 2307.09288, 2310.06825): RoPE on adjacent pairs, SwiGLU, grouped heads. Q and K
// rows lie permuted in these files, so that the pairs of a head are (2i, 2i + 1).
#include "engine/models/architectures.h"
#include "engine/models/hparams.h"
#include "engine/models/rope.h"
#include "engine/models/weights.h"

namespace foveal {
namespace {

TextParams read_params(const Gguf& file) {
  TextParams p = read_common_params(file);
  read_rope_params(file, p);
  check_tensors(file, p);
  return p;
}

class Llama final : public TextModel {
 public:
  Llama(std::shared_ptr<const Gguf> file, Backend& backend, ModelPart part)
      : TextModel(read_params(*file)),
        file_(std::move(file)),
        backend_(backend),
        weights_(*file_, backend, params_, part),
        rope_factors_(load_rope_factors(*file_, params_, backend)),
        rope_(read_rope_params(*file_, params_), {rope_factors_.data(), rope_factors_.size()}) {}

  void embed(Mat x, std::span<const int32_t> ids) const override { backend_.embed_rows(x, *weights_.token_embd, ids); }

  void rope_rows(Mat cs, std::span<const Position> pos, int) const override { rope_.rows(cs, pos); }

  void layer(int il, Mat x, std::span<const ConstMat> rope, LayerKv& kv, LayerScratch& s) const override {
    const BlockWeights& w = weights_.blocks[static_cast<size_t>(il)];
    const LayerViews r(s, params_, x.rows);

    backend_.rms_norm(r.normed, x, w.attn_norm.data(), params_.eps);
    backend_.matmul(r.qkv, *w.qkv, r.normed, w.qkv_bias.data());
    backend_.rope(r.q_and_k, params_.n_head + params_.n_head_kv, rope[0], RopeStyle::adjacent);
    kv.attend(r.attended, r.q, r.k, r.v);
    backend_.matmul(r.branch, *w.attn_output, r.attended, w.attn_output_bias.data());
    backend_.add(x, r.branch);

    backend_.rms_norm(r.normed, x, w.ffn_norm.data(), params_.eps);
    feed_forward(backend_, w, r, Act::silu);
    backend_.add(x, r.branch);
  }

  void head(Mat logits, Mat x) const override { output_head(backend_, weights_, logits, x, params_.eps); }

 private:
  std::shared_ptr<const Gguf> file_;
  Backend& backend_;
  DecoderWeights weights_;
  Buffer<float> rope_factors_;  // Llama 3.1 and later
  RopeTable rope_;
};

std::unique_ptr<TextModel> load(std::shared_ptr<const Gguf> file, Backend& backend, ModelPart part) {
  return std::make_unique<Llama>(std::move(file), backend, part);
}

}  // namespace

extern const Architecture kLlama;
const Architecture kLlama = {"llama", read_params, load};

}  // namespace foveal
