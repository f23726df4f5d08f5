// Qwen3-VL's encoder (arXiv 2511.21631): as Qwen2-VL's with learned positions, interpolated to the grid, and deepstack:
// the outputs of marked blocks are projected too and stand beside the main row.
#include <algorithm>
#include <cmath>

#include "engine/vision/encoders.h"
#include "engine/vision/qwen_patches.h"

namespace foveal {
namespace {

constexpr const char* kProjector = "qwen3vl_merger";

struct Deepstack {
  int after = 0;  // block whose output it takes
  Norm norm;      // over the patches of a row side by side
  Mlp mlp;
};

// x[i] += table [n * n, cols] at the place of patch order[i]: the n x n table stretched over the grid, corners on
// corners, bilinear.
void add_positions(Backend& b, Mat x, const Buffer<float>& table, int n, int grid_h, int grid_w,
                   std::span<const int32_t> order) {
  const auto place = [n](int i, int count) { return count > 1 ? static_cast<double>(i) * (n - 1) / (count - 1) : 0.0; };
  std::vector<int32_t> index;
  std::vector<float> weight;
  for (const int32_t raster : order) {
    const double y = place(raster / grid_w, grid_h), xx = place(raster % grid_w, grid_w);
    const int y0 = static_cast<int>(y), x0 = static_cast<int>(xx), y1 = std::min(y0 + 1, n - 1),
              x1 = std::min(x0 + 1, n - 1);
    const double fy = y - y0, fx = xx - x0;
    for (const int32_t row : {y0 * n + x0, y0 * n + x1, y1 * n + x0, y1 * n + x1}) index.push_back(row);
    for (const double w : {(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx}) weight.push_back(float(w));
  }
  b.weighted_rows(x, ConstMat(table.data(), int64_t{n} * n, x.cols), index, weight, 4, true);
}

class Qwen3Vl final : public VisionEncoder {
 public:
  Qwen3Vl(const VisionSource& source, const VisionHeader& header, int64_t n_out, const std::vector<bool>& marked)
      : file_(source.file), backend_(source.backend), n_out_(n_out) {
    const Loader load(*file_, backend_, source.options.precision);
    const int merge = static_cast<int>(file_->find_int("clip.vision.spatial_merge_size", 1, 8).value_or(2));
    patches_ = QwenPatches(load, header, merge, source.options);
    const int64_t n_positions = file_->tensor("v.position_embd.weight").rows();
    table_side_ = static_cast<int>(std::lround(std::sqrt(static_cast<double>(n_positions))));
    positions_ = load.table("v.position_embd.weight", header.n_embd, int64_t{table_side_} * table_side_);
    vit_ = Vit(load, header, header.n_layer);
    post_ln_ = load.norm("v.post_ln", header.n_embd, header.eps);
    const int64_t width = patches_.block_width();
    merger_ = {load.linear("mm.0", width, width), load.linear("mm.2", width, n_out)};
    for (int il = 0; il < header.n_layer; ++il) {
      if (il >= static_cast<int>(marked.size()) || !marked[static_cast<size_t>(il)]) continue;
      const std::string p = cat("v.deepstack.", il, ".");
      deepstack_.push_back({il,
                            load.norm(p + "norm", width, header.eps),
                            {load.linear(p + "fc1", width, width), load.linear(p + "fc2", width, n_out)}});
    }
    projector_ = kProjector;
    n_deepstack_ = static_cast<int>(deepstack_.size());
    row_width_ = static_cast<int>(n_out) * (1 + n_deepstack_);
    describe = patches_.describe(projector_);
    describe.emplace_back("deepstack", cat(n_deepstack_));
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
    const int merge = patches_.merge;
    patches_.embed(backend_, w.vit, tiles, plan, order);
    add_positions(backend_, w.vit.x, positions_, table_side_, plan.grid_rows * merge, plan.grid_cols * merge, order);
    patches_.rope_rows(backend_, w.rope, plan, order);
    const ConstMat rope = w.rope;
    const int32_t all[] = {0, static_cast<int32_t>(order.size())};
    // The patches of a row are neighbours: [n_patches, n_embd] read as [n_rows, merge^2 n_embd].
    const auto by_rows = [&](const Mat& m) { return Mat(m.data, plan.n_rows, patches_.block_width()); };
    Matrix out(plan.n_rows, row_width_, backend_.memory());
    size_t level = 0;
    for (int il = 0; il < vit_.n_layer(); ++il) {
      throw_if_cancelled(cancel);
      vit_.layer(backend_, il, w.vit, all, &rope);
      if (level == deepstack_.size() || deepstack_[level].after != il) continue;
      const Deepstack& d = deepstack_[level++];
      d.norm(backend_, by_rows(w.vit.normed), by_rows(w.vit.x));
      d.mlp(backend_, out.view().cols_at(static_cast<int64_t>(level) * n_out_, n_out_), by_rows(w.vit.normed),
            by_rows(w.vit.wide));
    }
    post_ln_(backend_, w.vit.normed, w.vit.x);
    merger_(backend_, out.view().cols_at(0, n_out_), by_rows(w.vit.normed), by_rows(w.vit.wide));
    return to_host(backend_, std::move(out));
  }

 private:
  std::shared_ptr<const Gguf> file_;
  Backend& backend_;
  int64_t n_out_ = 0;  // n_embd of the text model
  QwenPatches patches_;
  int table_side_ = 0;
  Buffer<float> positions_;  // [table_side^2, n_embd]
  Vit vit_;
  Norm post_ln_;
  Mlp merger_;
  std::vector<Deepstack> deepstack_;
};

}  // namespace

std::unique_ptr<VisionEncoder> load_qwen3vl(const VisionSource& source) {
  const Gguf &file = *source.file, &text = source.text;
  const VisionHeader header = read_vision_header(file);
  const int64_t merge = file.find_int("clip.vision.spatial_merge_size", 1, 8).value_or(2);
  const auto n_layer = static_cast<uint64_t>(header.n_layer);
  std::vector<bool> marked =
      file.find_bools("clip.vision.is_deepstack_layers", n_layer, n_layer).value_or(std::vector<bool>(n_layer));
  for (size_t il = 0; il < marked.size(); ++il)  // some files have the tensors alone
    marked[il] = marked[il] || file.find_tensor(cat("v.deepstack.", il, ".fc1.weight"));
  const int64_t n_out = Loader(file, source.backend).outputs("mm.2", merge * merge * header.n_embd);
  check_text_arch(file, text, kProjector, {"qwen3vl"});
  check_text_width(file, text, n_out);
  const int64_t levels = std::count(marked.begin(), marked.end(), true);
  const int64_t wanted = text.find_int("qwen3vl.n_deepstack_layers", 0, 512).value_or(0);
  if (levels != wanted) {
    fail(ErrorCode::mismatch, "the two files don't belong together: ", file.path(), " has ", levels,
         " deepstack levels ('clip.vision.is_deepstack_layers'), ", text.path(), " expects ", wanted,
         " ('qwen3vl.n_deepstack_layers')");
  }
  return std::make_unique<Qwen3Vl>(source, header, n_out, marked);
}

}  // namespace foveal
