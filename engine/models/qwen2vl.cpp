// The decoder of Qwen2-VL and Qwen2.5-VL (arXiv 2409.12191): Qwen2 with M-RoPE, where sections of a head's pairs follow
// a picture row's time, height and width.
#include "engine/models/architectures.h"
#include "engine/models/hparams.h"
#include "engine/models/rope.h"
#include "engine/models/weights.h"

namespace foveal {
namespace {

TextParams read_params(const Gguf& file) {
  TextParams p = read_common_params(file);
  read_rope_params(file, p);
  read_rope_sections(file, p);
  p.mrope = true;
  check_tensors(file, p, {});
  return p;
}

class Qwen2vl final : public TextModel {
 public:
  Qwen2vl(std::shared_ptr<const Gguf> file, Backend& backend, ModelPart part)
      : TextModel(read_params(*file)),
        file_(std::move(file)),
        backend_(backend),
        weights_(*file_, backend, params_, part),
        rope_(read_rope_params(*file_, params_), {}, mrope_axes(read_rope_sections(*file_, params_))) {}

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
  return std::make_unique<Qwen2vl>(std::move(file), backend, part);
}

}  // namespace

extern const Architecture kQwen2vl;
const Architecture kQwen2vl = {"qwen2vl", read_params, load};

}  // namespace foveal
