// Qwen2-VL's encoder (arXiv 2409.12191): any resolution, two-dimensional RoPE, 2x2 patches merged to a row.
#include "engine/vision/encoders.h"
#include "engine/vision/qwen_patches.h"

namespace foveal {
namespace {

class Qwen2Vl final : public VisionEncoder {
 public:
  Qwen2Vl(const VisionSource& source, const VisionHeader& header, int64_t n_out)
      : file_(source.file), backend_(source.backend) {
    const Loader load(*file_, backend_, source.options.precision);
    projector_ = "qwen2vl_merger";
    row_width_ = static_cast<int>(n_out);
    patches_ = QwenPatches(load, header, 2, source.options);
    vit_ = Vit(load, header, header.n_layer);
    post_ln_ = load.norm("v.post_ln", header.n_embd, header.eps);
    const int64_t width = patches_.block_width();
    merger_ = {load.linear("mm.0", width, width), load.linear("mm.2", width, n_out)};
    describe = patches_.describe(projector_);
  }

  std::string preprocessing_id() const override { return projector_ + " " + patches_.id(); }

  ImagePlan plan(int width, int height) const override {
    ImagePlan p = patches_.plan(width, height);
    p.scratch_bytes = patches_.encode_bytes(vit_, p, row_width_);
    return p;
  }

  std::vector<Tile> preprocess(ImageView image, const ImagePlan& plan) const override {
    return patches_.preprocess(image, plan);
  }

  Matrix encode(const std::vector<Tile>& tiles, const ImagePlan& plan, const CancelFlag* cancel) const override {
    Arena measure;
    patches_.scratch(measure, vit_, plan);
    Arena arena(measure.n_floats(), backend_);
    QwenScratch w = patches_.scratch(arena, vit_, plan);
    const auto order = patches_.block_order(plan);
    patches_.embed(backend_, w.vit, tiles, plan, order);
    patches_.rope_rows(backend_, w.rope, plan, order);
    const ConstMat rope = w.rope;
    const int32_t all[] = {0, static_cast<int32_t>(order.size())};
    for (int il = 0; il < vit_.n_layer(); ++il) {
      throw_if_cancelled(cancel);
      vit_.layer(backend_, il, w.vit, all, &rope);
    }
    post_ln_(backend_, w.vit.normed, w.vit.x);
    // The patches of a row are neighbours: [n_patches, n_embd] read as [n_rows, 4 n_embd].
    const int64_t width = patches_.block_width();
    Matrix out(plan.n_rows, row_width_, backend_.memory());
    merger_(backend_, out.view(), ConstMat(w.vit.normed.data, plan.n_rows, width),
            Mat(w.vit.wide.data, plan.n_rows, width));
    return to_host(backend_, std::move(out));
  }

 private:
  std::shared_ptr<const Gguf> file_;
  Backend& backend_;
  QwenPatches patches_;
  Vit vit_;
  Norm post_ln_;
  Mlp merger_;
};

}  // namespace

std::unique_ptr<VisionEncoder> load_qwen2vl(const VisionSource& source) {
  const VisionHeader header = read_vision_header(*source.file);
  const int64_t n_out = Loader(*source.file, source.backend).outputs("mm.2", int64_t{4} * header.n_embd);
  check_text_arch(*source.file, source.text, "qwen2vl_merger", {"qwen2vl"});
  check_text_width(*source.file, source.text, n_out);
  return std::make_unique<Qwen2Vl>(source, header, n_out);
}

}  // namespace foveal
