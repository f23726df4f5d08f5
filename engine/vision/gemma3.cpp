// Gemma 3's SigLIP encoder (arXiv 2503.19786): one square, 4x4 patches averaged to a row; the rows of a picture attend
// both ways in the decoder.
#include <algorithm>

#include "engine/vision/encoders.h"
#include "engine/vision/tiles.h"

namespace foveal {
namespace {

constexpr const char* kProjector = "gemma3";

class Gemma3Vision final : public VisionEncoder {
 public:
  Gemma3Vision(const VisionSource& source, const VisionHeader& header, int pool, int64_t n_out)
      : file_(source.file), backend_(source.backend), pool_(pool), side_(merged_grid(*file_, header, pool)) {
    check_fixed_rows(source.options, side_ * side_);
    const Loader load(*file_, backend_, source.options.precision);
    tower_ = TileTower(load, header, header.n_layer);
    post_ln_ = load.norm("v.post_ln", header.n_embd, header.eps);
    soft_norm_ = load.norm("mm.soft_emb_norm", header.n_embd, header.eps);
    // The one matrix of the format that stands as [inputs][outputs].
    const Buffer<float> stored = load.to_host(load.table("mm.input_projection.weight", n_out, header.n_embd));
    projection_ = Buffer<float>(stored.size());
    for (int64_t in = 0; in < header.n_embd; ++in) {
      for (int64_t o = 0; o < n_out; ++o) projection_.data()[o * header.n_embd + in] = stored.data()[in * n_out + o];
    }
    project_ = load.own_matrix("mm.input_projection.weight", projection_, n_out, header.n_embd);
    projector_ = kProjector;
    row_width_ = static_cast<int>(n_out);
    describe = describe_tiles(projector_, header, cat(side_ * side_));
  }

  std::string preprocessing_id() const override {
    return cat(kProjector, " bilinear ", tower_.header.image_size, " ", pool_, normalisation_id(tower_.header.norm));
  }

  ImagePlan plan(int width, int height) const override {
    check_image_size(width, height);
    ImagePlan p;
    const int size = tower_.header.image_size;
    p.width = width;
    p.height = height;
    p.resized_width = p.resized_height = size;
    p.n_rows = side_ * side_;
    p.bidirectional = true;
    p.pieces = {{"<start_of_image>"}, {"", 0, p.n_rows}, {"<end_of_image>"}};
    add_cells(p.boxes, {width, height, size, size}, 0, 0, side_, pool_ * tower_.header.patch);
    Arena measure;
    tower_.scratch(measure, 1);
    p.scratch_bytes = (measure.n_floats() + int64_t{p.n_rows} * row_width_) * 4 + pixel_bytes(1, size, size);
    return p;
  }

  std::vector<Tile> preprocess(ImageView image, const ImagePlan& plan) const override {
    std::vector<Tile> tiles;
    const Image resized = resize(image, plan.resized_width, plan.resized_height, Filter::bilinear);
    tiles.push_back(make_tile(resized.view(), tower_.header.norm));
    return tiles;
  }

  Matrix encode(const std::vector<Tile>& tiles, const ImagePlan& plan, const CancelFlag* cancel) const override {
    Arena measure;
    tower_.scratch(measure, 1);
    Arena arena(measure.n_floats(), backend_);
    VitScratch s = tower_.scratch(arena, 1);
    tower_.run(backend_, s, tiles, cancel);
    post_ln_(backend_, s.normed, s.x);
    const Mat pooled(s.x.data, plan.n_rows, s.x.cols);
    const int area = pool_ * pool_;
    const std::vector<float> share(static_cast<size_t>(plan.n_rows * area), 1.0f / static_cast<float>(area));
    backend_.weighted_rows(pooled, s.normed, tower_.shuffle_index(1, pool_), share, area, false);
    const Mat rows(s.normed.data, plan.n_rows, s.x.cols);
    soft_norm_(backend_, rows, pooled);
    Matrix out(plan.n_rows, row_width_, backend_.memory());
    backend_.matmul(out.view(), *project_, rows);
    return to_host(backend_, std::move(out));
  }

 private:
  std::shared_ptr<const Gguf> file_;
  Backend& backend_;
  int pool_ = 0, side_ = 0;  // patches a side that are averaged; rows a side of the picture
  TileTower tower_;
  Norm post_ln_, soft_norm_;
  Buffer<float> projection_;  // [n_out, n_embd]
  WeightPtr project_;
};

}  // namespace

std::unique_ptr<VisionEncoder> load_gemma3(const VisionSource& source) {
  const VisionHeader header = read_vision_header(*source.file);
  const int pool = static_cast<int>(source.file->find_int("clip.vision.projector.scale_factor", 1, 64).value_or(4));
  const int64_t n_out = source.file->tensor("mm.input_projection.weight").cols();
  check_text_arch(*source.file, source.text, kProjector, {"gemma3"});
  check_text_width(*source.file, source.text, n_out);
  return std::make_unique<Gemma3Vision>(source, header, pool, n_out);
}

}  // namespace foveal
