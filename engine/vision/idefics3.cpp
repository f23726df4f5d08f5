// Idefics3 and SmolVLM (arXiv 2408.12637, 2504.05299): tiles of an enlarged picture, each announced by text, then the
// whole picture; SigLIP, s x s patches side by side through one matrix.
#include <algorithm>
#include <cmath>

#include "engine/vision/encoders.h"
#include "engine/vision/tiles.h"

namespace foveal {
namespace {

constexpr const char* kProjector = "idefics3";

class Idefics3 final : public VisionEncoder {
 public:
  Idefics3(const VisionSource& source, const VisionHeader& header, int merge, int64_t n_out)
      : file_(source.file), backend_(source.backend), merge_(merge), side_(merged_grid(*file_, header, merge)) {
    const Loader load(*file_, backend_, source.options.precision);
    const int size = header.image_size;
    longest_ = static_cast<int>(file_->find_int("clip.vision.preproc_image_size", size, 4096).value_or(size * 4));
    apply(source.options, size);
    tower_ = TileTower(load, header, header.n_layer);
    post_ln_ = load.norm("v.post_ln", header.n_embd, header.eps);
    project_ = load.linear("mm.model.fc", int64_t{merge} * merge * header.n_embd, n_out);
    projector_ = kProjector;
    row_width_ = static_cast<int>(n_out);
    const int most = (longest_ + size - 1) / size;
    describe = describe_tiles(projector_, header,
                              cat(most > 1 ? rows_per_tile() * (most + 1) : rows_per_tile(), " to ",
                                  most > 1 ? rows_per_tile() * (most * most + 1) : rows_per_tile()));
  }

  std::string preprocessing_id() const override {
    return cat(kProjector, " lanczos ", tower_.header.image_size, " ", merge_, " ", longest_,
               normalisation_id(tower_.header.norm));
  }

  ImagePlan plan(int width, int height) const override {
    check_image_size(width, height);
    const int size = tower_.header.image_size, cell = merge_ * tower_.header.patch;
    const Sizes s = sizes(width, height);
    const int columns = s.tiled_width / size, rows = s.tiled_height / size;
    const bool split = columns * rows > 1;
    ImagePlan p;
    p.width = width;
    p.height = height;
    p.resized_width = s.tiled_width;
    p.resized_height = s.tiled_height;
    p.n_tiles = split ? columns * rows + 1 : 1;
    p.n_rows = p.n_tiles * rows_per_tile();
    const Frame tiled{width, height, s.tiled_width, s.tiled_height};
    for (int t = 0; split && t < columns * rows; ++t) {
      const int r = t / columns, c = t % columns;
      const char* before = t == 0 || c > 0 ? "" : "\n";
      p.pieces.push_back({cat(before, "<fake_token_around_image><row_", r + 1, "_col_", c + 1, ">")});
      p.pieces.push_back({"", t * rows_per_tile(), rows_per_tile()});
      add_cells(p.boxes, tiled, c * size, r * size, side_, cell);
    }
    p.pieces.push_back({cat(split ? "\n\n" : "", "<fake_token_around_image><global-img>")});
    p.pieces.push_back({"", (p.n_tiles - 1) * rows_per_tile(), rows_per_tile()});
    p.pieces.push_back({"<fake_token_around_image>"});
    add_cells(p.boxes, {width, height, size, size}, 0, 0, side_, cell);
    Arena measure;
    take(measure, p);
    p.scratch_bytes = (measure.n_floats() + int64_t{p.n_rows} * row_width_) * 4 + pixel_bytes(p.n_tiles, size, size);
    return p;
  }

  std::vector<Tile> preprocess(ImageView image, const ImagePlan& plan) const override {
    const int size = tower_.header.image_size;
    const Normalisation& norm = tower_.header.norm;
    const Sizes s = sizes(plan.width, plan.height);
    const Image enlarged = resize(image, s.width, s.height, Filter::lanczos);
    const Image tiled = resize(enlarged.view(), s.tiled_width, s.tiled_height, Filter::lanczos);
    std::vector<Tile> tiles;
    if (plan.n_tiles > 1) cut_tiles(tiles, tiled.view(), size, norm);
    tiles.push_back(make_tile(resize(tiled.view(), size, size, Filter::lanczos).view(), norm));
    return tiles;
  }

  Matrix encode(const std::vector<Tile>& tiles, const ImagePlan& plan, const CancelFlag* cancel) const override {
    Arena measure;
    take(measure, plan);
    Arena arena(measure.n_floats(), backend_);
    Work w = take(arena, plan);
    tower_.run(backend_, w.vit, tiles, cancel);
    post_ln_(backend_, w.vit.normed, w.vit.x);
    backend_.merge_rows(w.merged, w.vit.normed, tower_.shuffle_index(plan.n_tiles, merge_), int64_t{merge_} * merge_);
    Matrix out(plan.n_rows, row_width_, backend_.memory());
    project_(backend_, out.view(), w.merged);
    return to_host(backend_, std::move(out));
  }

 private:
  struct Work {
    VitScratch vit;
    Mat merged;  // [n_rows, merge^2 n_embd]
  };
  Work take(Arena& arena, const ImagePlan& plan) const {
    Work w;
    w.vit = tower_.scratch(arena, plan.n_tiles);
    w.merged = arena.take(plan.n_rows, int64_t{merge_} * merge_ * tower_.header.n_embd);
    return w;
  }

  int rows_per_tile() const { return side_ * side_; }

  // The longest side becomes k tiles, so that a square picture (k * k tiles and the whole) keeps inside the options.
  void apply(const VisionOptions& options, int size) {
    const auto rows = [&](int k) { return rows_per_tile() * (k > 1 ? k * k + 1 : 1); };
    const int most = kMaxImageSide / 2 / size;
    int k = (longest_ + size - 1) / size;
    if (options.max_tokens > 0) {
      if (options.max_tokens < rows(1)) {
        fail(ErrorCode::invalid_argument, "image_max_tokens is ", options.max_tokens, ", expected at least ", rows(1),
             " (one tile of this encoder)");
      }
      k = 1;
      while (k < most && rows(k + 1) <= options.max_tokens) ++k;
      longest_ = k * size;
    }
    // The least for a picture: a strip of k tiles and the whole.
    while (options.min_tokens > rows_per_tile() * (k > 1 ? k + 1 : 1)) {
      longest_ = ++k * size;
      if (k > most || (options.max_tokens > 0 && rows(k) > options.max_tokens)) {
        fail(ErrorCode::invalid_argument, "image_min_tokens ", options.min_tokens, ", image_max_tokens ",
             options.max_tokens, ": no size fits; tiles have ", rows_per_tile(),
             " rows, and a side of k tiles gives k + 1 to k * k + 1 of them");
      }
    }
  }

  struct Sizes {
    int width, height;              // longest side = longest_, the other one even
    int tiled_width, tiled_height;  // both up to multiples of a tile
  };
  Sizes sizes(int width, int height) const {
    const int tile = tower_.header.image_size;
    const bool wide = width >= height;
    const double ratio = static_cast<double>(width) / height;
    int other = static_cast<int>(wide ? longest_ / ratio : longest_ * ratio);
    other = std::max(other + other % 2, 1);
    Sizes s{wide ? longest_ : other, wide ? other : longest_, 0, 0};
    const auto up = [tile](int side) { return std::max((side + tile - 1) / tile, 1) * tile; };
    const double resized_ratio = static_cast<double>(s.width) / s.height;
    const int longer = up(longest_);
    const int shorter = up(static_cast<int>(wide ? longer / resized_ratio : longer * resized_ratio));
    s.tiled_width = wide ? longer : shorter;
    s.tiled_height = wide ? shorter : longer;
    return s;
  }

  std::shared_ptr<const Gguf> file_;
  Backend& backend_;
  int merge_ = 0, side_ = 0;  // patches a side that become one row; rows a side of a tile
  int longest_ = 0;           // pixels of the longer side before tiling
  TileTower tower_;
  Norm post_ln_;
  Linear project_;
};

}  // namespace

std::unique_ptr<VisionEncoder> load_idefics3(const VisionSource& source) {
  const VisionHeader header = read_vision_header(*source.file);
  const int merge = static_cast<int>(source.file->find_int("clip.vision.projector.scale_factor", 1, 64).value_or(4));
  const int64_t n_out = source.file->tensor("mm.model.fc.weight").rows();
  check_text_width(*source.file, source.text, n_out);
  return std::make_unique<Idefics3>(source, header, merge, n_out);
}

}  // namespace foveal
