// InternVL 2.5 and 3 (arXiv 2412.05271, 2504.10479): tiles of the closest aspect ratio, InternViT with layer scale,
// 2x2 patches merged to a row; a thumbnail last.
#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/vision/encoders.h"
#include "engine/vision/tiles.h"

namespace foveal {
namespace {

constexpr const char* kProjector = "internvl";

struct TileGrid {
  int columns = 1, rows = 1;
};

class InternVl final : public VisionEncoder {
 public:
  InternVl(const VisionSource& source, const VisionHeader& header, int merge, int64_t n_out)
      : file_(source.file),
        backend_(source.backend),
        merge_(merge),
        side_(merged_grid(*file_, header, merge)),
        tile_side_(header.image_size) {
    read_tile_limits(source.options);
    const Loader load(*file_, backend_, source.options.precision);
    tower_ = TileTower(load, header, header.n_layer);
    const int64_t width = int64_t{merge} * merge * header.n_embd;
    norm_ = load.norm("mm.model.mlp.0", width, 1e-5f);  // nn.LayerNorm's default
    const int64_t hidden = load.outputs("mm.model.mlp.1", width);
    mlp_ = {load.linear("mm.model.mlp.1", width, hidden), load.linear("mm.model.mlp.3", hidden, n_out)};
    projector_ = kProjector;
    row_width_ = static_cast<int>(n_out);
    describe = describe_tiles(projector_, header, cat(rows_of(min_tiles_), " to ", rows_of(max_tiles_)));
  }

  std::string preprocessing_id() const override {
    return cat(kProjector, " bicubic ", tower_.header.image_size, " ", merge_, " ", min_tiles_, " ", max_tiles_,
               normalisation_id(tower_.header.norm));
  }

  ImagePlan plan(int width, int height) const override {
    check_image_size(width, height);
    const int size = tower_.header.image_size, cell = merge_ * tower_.header.patch;
    const TileGrid grid = closest_grid(width, height);
    const int n = grid.columns * grid.rows;
    ImagePlan p;
    p.width = width;
    p.height = height;
    p.resized_width = grid.columns * size;
    p.resized_height = grid.rows * size;
    p.n_tiles = n > 1 ? n + 1 : 1;
    p.n_rows = rows_of(n);
    p.pieces = {{"<img>"}, {"", 0, p.n_rows}, {"</img>"}};
    const Frame tiled{width, height, p.resized_width, p.resized_height};
    for (int t = 0; t < n; ++t) {
      add_cells(p.boxes, tiled, t % grid.columns * size, t / grid.columns * size, side_, cell);
    }
    if (n > 1) add_cells(p.boxes, {width, height, size, size}, 0, 0, side_, cell);
    Arena measure;
    take(measure, p);
    p.scratch_bytes = (measure.n_floats() + int64_t{p.n_rows} * row_width_) * 4 + pixel_bytes(p.n_tiles, size, size);
    return p;
  }

  std::vector<Tile> preprocess(ImageView image, const ImagePlan& plan) const override {
    const int size = tower_.header.image_size;
    const Normalisation& norm = tower_.header.norm;
    std::vector<Tile> tiles;
    cut_tiles(tiles, resize(image, plan.resized_width, plan.resized_height, Filter::bicubic).view(), size, norm);
    if (plan.n_tiles > 1) tiles.push_back(make_tile(resize(image, size, size, Filter::bicubic).view(), norm));
    return tiles;
  }

  Matrix encode(const std::vector<Tile>& tiles, const ImagePlan& plan, const CancelFlag* cancel) const override {
    Arena measure;
    take(measure, plan);
    Arena arena(measure.n_floats(), backend_);
    Work w = take(arena, plan);
    tower_.run(backend_, w.vit, tiles, cancel);
    backend_.merge_rows(w.merged, w.vit.x, tower_.shuffle_index(plan.n_tiles, merge_), int64_t{merge_} * merge_);
    norm_(backend_, w.merged, w.merged);
    Matrix out(plan.n_rows, row_width_, backend_.memory());
    mlp_(backend_, out.view(), w.merged, w.hidden);
    return to_host(backend_, std::move(out));
  }

 private:
  struct Work {
    VitScratch vit;
    Mat merged;  // [n_rows, merge^2 n_embd]
    Mat hidden;  // [n_rows, mlp width]
  };
  Work take(Arena& arena, const ImagePlan& plan) const {
    Work w;
    w.vit = tower_.scratch(arena, plan.n_tiles);
    w.merged = arena.take(plan.n_rows, int64_t{merge_} * merge_ * tower_.header.n_embd);
    w.hidden = arena.take(plan.n_rows, mlp_.first.rows());
    return w;
  }

  int rows_of(int n_tiles) const { return (n_tiles > 1 ? n_tiles + 1 : 1) * side_ * side_; }

  void read_tile_limits(const VisionOptions& options) {
    min_tiles_ = static_cast<int>(file_->find_int("clip.vision.preproc_min_tiles", 1, 128).value_or(1));
    max_tiles_ = static_cast<int>(file_->find_int("clip.vision.preproc_max_tiles", 1, 128).value_or(12));
    if (min_tiles_ > max_tiles_) {
      fail(ErrorCode::file_format, file_->path(), ": key 'clip.vision.preproc_min_tiles' is ", min_tiles_,
           ", expected at most 'clip.vision.preproc_max_tiles', which is ", max_tiles_);
    }
    const int64_t size = tile_side_;
    const int most = static_cast<int>(std::min<int64_t>(128, kMaxImagePixels / (size * size)));
    if (max_tiles_ > most) {
      fail(ErrorCode::file_format, file_->path(), ": key 'clip.vision.preproc_max_tiles' is ", max_tiles_,
           ", expected at most ", most, " for tiles of ", size, " pixels a side");
    }
    if (options.max_tokens > 0) {
      if (options.max_tokens < rows_of(1)) {
        fail(ErrorCode::invalid_argument, "image_max_tokens is ", options.max_tokens, ", expected at least ",
             rows_of(1), " (one tile of this encoder)");
      }
      max_tiles_ = std::clamp(options.max_tokens / rows_of(1) - 1, 1, most);
      min_tiles_ = std::min(min_tiles_, max_tiles_);
    }
    if (options.min_tokens > rows_of(min_tiles_)) {
      min_tiles_ = std::max((options.min_tokens + rows_of(1) - 1) / rows_of(1) - 1, 2);
      if (options.max_tokens == 0) max_tiles_ = std::max(max_tiles_, min_tiles_);
    }
    if (min_tiles_ > max_tiles_ || max_tiles_ > most) {
      fail(ErrorCode::invalid_argument, "image_min_tokens ", options.min_tokens, ", image_max_tokens ",
           options.max_tokens, ": no number of tiles of ", rows_of(1), " rows fits (1 tile, or 2 to ", most,
           " and a thumbnail)");
    }
  }

  // The grid of min..max tiles whose aspect ratio is closest; of equal ones the larger if the picture fills half of it.
  TileGrid closest_grid(int width, int height) const {
    std::vector<TileGrid> grids;
    for (int c = 1; c <= max_tiles_; ++c) {
      for (int r = 1; c * r <= max_tiles_; ++r) {
        if (c * r >= min_tiles_) grids.push_back({c, r});
      }
    }
    std::stable_sort(grids.begin(), grids.end(),
                     [](const TileGrid& a, const TileGrid& b) { return a.columns * a.rows < b.columns * b.rows; });
    const double ratio = static_cast<double>(width) / height, pixels = static_cast<double>(width) * height;
    const double tile = static_cast<double>(tower_.header.image_size) * tower_.header.image_size;
    TileGrid best = grids.front();
    double best_distance = std::numeric_limits<double>::infinity();
    for (const TileGrid& g : grids) {
      const double distance = std::fabs(ratio - static_cast<double>(g.columns) / g.rows);
      if (distance < best_distance || (distance == best_distance && pixels > 0.5 * tile * g.columns * g.rows)) {
        best = g;
        best_distance = distance;
      }
    }
    return best;
  }

  std::shared_ptr<const Gguf> file_;
  Backend& backend_;
  int merge_ = 0, side_ = 0;  // patches a side that become one row; rows a side of a tile
  int tile_side_ = 0;         // pixels
  int min_tiles_ = 1, max_tiles_ = 12;
  TileTower tower_;
  Norm norm_;
  Mlp mlp_;
};

}  // namespace

std::unique_ptr<VisionEncoder> load_internvl(const VisionSource& source) {
  VisionHeader header = read_vision_header(*source.file);
  header.act = Act::gelu_erf;  // InternViT's, whatever clip.use_gelu says
  const int merge = static_cast<int>(source.file->find_int("clip.vision.projector.scale_factor", 1, 64).value_or(2));
  const int64_t n_out = source.file->tensor("mm.model.mlp.3.weight").rows();
  check_text_width(*source.file, source.text, n_out);
  return std::make_unique<InternVl>(source, header, merge, n_out);
}

}  // namespace foveal
