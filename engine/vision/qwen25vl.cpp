// Qwen2.5-VL's encoder (arXiv 2502.13923): attention inside windows of 112 pixels but for every n-th layer, RMSNorm,
// SwiGLU.
#include <algorithm>

#include "engine/vision/encoders.h"
#include "engine/vision/qwen_patches.h"

namespace foveal {
namespace {

// The patches window by window, the blocks of a window row by row, and where each window and block went.
struct WindowOrder {
  std::vector<int32_t> patches;   // raster index of each patch
  std::vector<int32_t> segments;  // first patch of each window, and the end
  std::vector<int32_t> rows;      // for merge_rows: the patches of each output row, rows in raster order
};

WindowOrder order_by_windows(const std::vector<int32_t>& blocks, const ImagePlan& plan, int side, int block) {
  WindowOrder o;
  o.rows.resize(blocks.size());
  o.segments.push_back(0);
  for (int wr = 0; wr < plan.grid_rows; wr += side) {
    for (int wc = 0; wc < plan.grid_cols; wc += side) {
      for (int r = wr; r < std::min(wr + side, plan.grid_rows); ++r) {
        for (int c = wc; c < std::min(wc + side, plan.grid_cols); ++c) {
          const int first = (r * plan.grid_cols + c) * block;
          for (int k = 0; k < block; ++k) {
            o.rows[static_cast<size_t>(first + k)] = static_cast<int32_t>(o.patches.size());
            o.patches.push_back(blocks[static_cast<size_t>(first + k)]);
          }
        }
      }
      o.segments.push_back(static_cast<int32_t>(o.patches.size()));
    }
  }
  return o;
}

class Qwen25Vl final : public VisionEncoder {
 public:
  Qwen25Vl(const VisionSource& source, const VisionHeader& header, int64_t n_out)
      : file_(source.file), backend_(source.backend) {
    const Loader load(*file_, backend_, source.options.precision);
    projector_ = "qwen2.5vl_merger";
    row_width_ = static_cast<int>(n_out);
    patches_ = QwenPatches(load, header, 2, source.options);
    full_every_ = static_cast<int>(file_->get_int("clip.vision.n_wa_pattern", 1, 512));
    window_ = static_cast<int>(
        file_->find_int("clip.vision.window_size", patches_.factor, 4096).value_or(std::max(112, patches_.factor)) /
        patches_.factor);
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
    const int block = patches_.merge * patches_.merge;
    const WindowOrder order = order_by_windows(patches_.block_order(plan), plan, window_, block);
    patches_.embed(backend_, w.vit, tiles, plan, order.patches);
    patches_.rope_rows(backend_, w.rope, plan, order.patches);
    const ConstMat rope = w.rope;
    const int32_t all[] = {0, static_cast<int32_t>(order.patches.size())};
    for (int il = 0; il < vit_.n_layer(); ++il) {
      throw_if_cancelled(cancel);
      const bool full = (il + 1) % full_every_ == 0;
      vit_.layer(backend_, il, w.vit, full ? std::span<const int32_t>(all) : order.segments, &rope);
    }
    post_ln_(backend_, w.vit.normed, w.vit.x);
    const int64_t width = patches_.block_width();
    const Mat merged(w.vit.x.data, plan.n_rows, width);
    backend_.merge_rows(merged, w.vit.normed, order.rows, block);
    Matrix out(plan.n_rows, row_width_, backend_.memory());
    merger_(backend_, out.view(), merged, Mat(w.vit.wide.data, plan.n_rows, width));
    return to_host(backend_, std::move(out));
  }

 private:
  std::shared_ptr<const Gguf> file_;
  Backend& backend_;
  QwenPatches patches_;
  int full_every_ = 0;  // layer il sees the whole picture when (il + 1) % full_every == 0
  int window_ = 0;      // rows (of the merged grid) a side of a window
  Vit vit_;
  Norm post_ln_;
  Mlp merger_;
};

}  // namespace

std::unique_ptr<VisionEncoder> load_qwen25vl(const VisionSource& source) {
  const VisionHeader header = read_vision_header(*source.file);
  const int64_t n_out = Loader(*source.file, source.backend).outputs("mm.2", int64_t{4} * header.n_embd);
  check_text_arch(*source.file, source.text, "qwen2.5vl_merger", {"qwen2vl"});
  check_text_width(*source.file, source.text, n_out);
  return std::make_unique<Qwen25Vl>(source, header, n_out);
}

}  // namespace foveal
