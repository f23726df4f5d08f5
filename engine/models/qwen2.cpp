// Qwen2 and Qwen2.5 (arXiv 2407.10671), also InternVL3's decoder: Llama's block with biases on q, k, v and RoPE on
// half-split pairs (i, i + n_rot / 2).
#include "engine/models/architectures.h"
#include "engine/models/hparams.h"
#include "engine/models/rope.h"
#include "engine/models/weights.h"

namespace foveal {
namespace {

TextParams read_params(const Gguf& file) {
  TextParams p = read_common_params(file);
  read_rope_params(file, p);
  check_tensors(file, p, {});
  return p;
}

class Qwen2 final : public TextModel {
 public:
  Qwen2(std::shared_ptr<const Gguf> file, Backend& backend, ModelPart part)
      : TextModel(read_params(*file)),
        file_(std::move(file)),
        backend_(backend),
        weights_(*file_, backend, params_, part),
        rope_(read_rope_params(*file_, params_)) {}

  void embed(Mat x, std::span<const int32_t> ids) const override { backend_.embed_rows(x, *weights_.token_embd, ids); }

  void rope_rows(Mat cs, std::span<const Position> pos, int) const override { rope_.rows(cs, pos); }

  void layer(int il, Mat x, std::span<const ConstMat> rope, LayerKv& kv, LayerScratch& s) const override {
    const BlockWeights& w = weights_.blocks[static_cast<size_t>(il)];
    const LayerViews r(s, params_, x.rows);

    backend_.rms_norm(r.normed, x, w.attn_norm.data(), params_.eps);
    backend_.matmul(r.qkv, *w.qkv, r.normed, w.qkv_bias.data());
    backend_.rope(r.q_and_k, params_.n_head + params_.n_head_kv, rope[0], RopeStyle::half_split);
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
  RopeTable rope_;
};

std::unique_ptr<TextModel> load(std::shared_ptr<const Gguf> file, Backend& backend, ModelPart part) {
  return std::make_unique<Qwen2>(std::move(file), backend, part);
}

}  // namespace

extern const Architecture kQwen2;
const Architecture kQwen2 = {"qwen2", read_params, load};

}  // namespace foveal
