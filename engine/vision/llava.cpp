// LLaVA-1.5 (arXiv 2310.03744) and LLaVA-1.6 (NeXT): CLIP, two projector matrices; 1.6 adds a grid of tiles, unpadded
// and stitched row by row with a newline row after each, behind the overview.
#include <algorithm>

#include "engine/vision/anyres.h"
#include "engine/vision/encoders.h"
#include "engine/vision/tiles.h"

namespace foveal {
namespace {

constexpr const char* kProjector = "mlp";

// Blocks after which rows are taken (0: the embedding), ascending runs not needed. Without the key every stored block
// runs: converters drop the last one of CLIP, whose second-last output LLaVA uses. A whole ViT-L still has it.
std::vector<int> feature_layers(const Gguf& file, const VisionHeader& header) {
  const auto listed = file.find_ints("clip.vision.feature_layer", 1, 16, 0, header.n_layer);
  if (listed) return {listed->begin(), listed->end()};
  return {header.n_layer == 24 && header.n_embd == 1024 ? 23 : header.n_layer};
}

class Llava final : public VisionEncoder {
 public:
  Llava(const VisionSource& source, const VisionHeader& header, int64_t n_out)
      : file_(source.file),
        backend_(source.backend),
        features_(feature_layers(*file_, header)),
        patches_(header.grid()) {
    read_choices(header, source.options);
    const Loader load(*file_, backend_, source.options.precision);
    tower_ = TileTower(load, header, *std::max_element(features_.begin(), features_.end()));
    const int64_t width = static_cast<int64_t>(features_.size()) * header.n_embd;
    const bool two = file_->find_tensor("mm.2.weight") != nullptr;
    const int64_t hidden = load.outputs("mm.0", width);
    mlp_.first = load.linear("mm.0", width, hidden);
    if (two) mlp_.second = load.linear("mm.2", hidden, n_out);
    for (const char* name : {"v.image_newline", "model.image_newline"}) {
      if (newline_.size() == 0) newline_ = load.to_host(load.optional_floats(name, n_out));
    }
    projector_ = kProjector;
    row_width_ = static_cast<int>(n_out);
    describe =
        describe_tiles(projector_, header, choices_.empty() ? cat(patches_ * patches_) : cat("up to ", most_rows_));
    describe.emplace_back("version", choices_.empty() ? "LLaVA-1.5" : "LLaVA-1.6");
  }

  std::string preprocessing_id() const override {
    std::string id = cat(kProjector, " bicubic ", tower_.header.image_size, " ", stitch_, unpad_,
                         normalisation_id(tower_.header.norm));
    for (const Resolution& c : choices_) id += cat(" ", c.width, "x", c.height);
    return id;
  }

  ImagePlan plan(int width, int height) const override {
    check_image_size(width, height);
    ImagePlan p;
    p.width = width;
    p.height = height;
    if (choices_.empty()) {
      plan_crop(p);
    } else {
      plan_tiles(p);
    }
    p.n_rows = static_cast<int>(p.boxes.size());
    p.pieces = {{"", 0, p.n_rows}};
    Arena measure;
    take(measure, p);
    const int size = tower_.header.image_size;
    p.scratch_bytes = (measure.n_floats() + int64_t{p.n_rows} * row_width_) * 4 + pixel_bytes(p.n_tiles, size, size);
    return p;
  }

  std::vector<Tile> preprocess(ImageView image, const ImagePlan& plan) const override {
    const int size = tower_.header.image_size;
    const Normalisation& norm = tower_.header.norm;
    std::vector<Tile> tiles;
    if (choices_.empty()) {
      const Crop crop{(plan.resized_width - size) / 2, (plan.resized_height - size) / 2, size, size};
      const Image square = resize_crop(image, plan.resized_width, plan.resized_height, Filter::bicubic, crop);
      tiles.push_back(make_tile(square.view(), norm));
      return tiles;
    }
    tiles.push_back(make_tile(resize(image, size, size, Filter::bicubic).view(), norm));
    cut_tiles(tiles, pad_to_canvas(image, layout(plan.width, plan.height)).view(), size, norm);
    return tiles;
  }

  Matrix encode(const std::vector<Tile>& tiles, const ImagePlan& plan, const CancelFlag* cancel) const override {
    Arena measure;
    take(measure, plan);
    Arena arena(measure.n_floats(), backend_);
    Work w = take(arena, plan);
    const std::vector<int32_t> source = source_rows(plan);
    const int n_tiles = static_cast<int>(tiles.size());
    std::vector<int32_t> gathered(source);
    for (int32_t& row : gathered) row = std::max(row, 0);
    const auto take_features = [&](int after) {
      for (size_t f = 0; f < features_.size(); ++f) {
        const int64_t E = tower_.header.n_embd;
        if (features_[f] == after)
          backend_.merge_rows(w.selected.cols_at(static_cast<int64_t>(f) * E, E), w.vit.x, gathered, 1);
      }
    };
    tower_.embed(backend_, w.vit, tiles);
    take_features(0);
    const auto segments = tower_.segments(n_tiles);
    for (int il = 0; il < tower_.vit.n_layer(); ++il) {
      throw_if_cancelled(cancel);
      tower_.vit.layer(backend_, il, w.vit, segments, nullptr);
      take_features(il + 1);
    }
    Matrix out(plan.n_rows, row_width_, backend_.memory());
    if (mlp_.second.weight) {
      mlp_(backend_, out.view(), w.selected, w.hidden);
    } else {
      mlp_.first(backend_, out.view(), w.selected);
    }
    Matrix rows = to_host(backend_, std::move(out));
    for (int64_t i = 0; i < plan.n_rows; ++i) {
      if (source[static_cast<size_t>(i)] < 0) std::copy_n(newline_.data(), row_width_, rows.view().row(i));
    }
    return rows;
  }

 private:
  struct Work {
    VitScratch vit;
    Mat selected;  // [n_rows, features * n_embd]
    Mat hidden;    // [n_rows, projector width]
  };
  Work take(Arena& arena, const ImagePlan& plan) const {
    Work w;
    w.vit = tower_.scratch(arena, plan.n_tiles);
    w.selected = arena.take(plan.n_rows, static_cast<int64_t>(features_.size()) * tower_.header.n_embd);
    w.hidden = arena.take(plan.n_rows, mlp_.second.weight ? mlp_.first.rows() : 0);
    return w;
  }

  // Canvas sizes of 1.6 ("pinpoints" are height, width pairs), those that the options allow.
  void read_choices(const VisionHeader& header, const VisionOptions& options) {
    const auto points = file_->find_ints("clip.vision.image_grid_pinpoints", 2, 128, 1, kMaxImageSide);
    if (!points) return check_fixed_rows(options, patches_ * patches_);
    const int tile = header.image_size;
    const std::string* merge = file_->find_string("clip.vision.mm_patch_merge_type");
    const std::string kind = merge ? *merge : "spatial_unpad";
    if (kind != "spatial_unpad" && kind != "spatial" && kind != "flat") {
      fail(ErrorCode::unsupported, file_->path(), ": key 'clip.vision.mm_patch_merge_type' is ", quoted(kind),
           ", expected 'spatial_unpad', 'spatial' or 'flat'");
    }
    stitch_ = kind != "flat";
    unpad_ = kind == "spatial_unpad";
    if (points->size() % 2 != 0) {
      fail(ErrorCode::file_format, file_->path(), ": key 'clip.vision.image_grid_pinpoints' holds ", points->size(),
           " numbers, expected pairs of height and width");
    }
    int least = 0;
    for (size_t i = 0; i < points->size(); i += 2) {
      const Resolution c{static_cast<int>((*points)[i + 1]), static_cast<int>((*points)[i])};
      if (c.width % tile != 0 || c.height % tile != 0 || int64_t{c.width} * c.height > kMaxImagePixels) {
        fail(ErrorCode::file_format, file_->path(), ": key 'clip.vision.image_grid_pinpoints' holds ", c.height, "x",
             c.width, ", expected multiples of 'clip.vision.image_size', which is ", tile, ", and at most ",
             kMaxImagePixels, " pixels");
      }
      const int rows = c.height / tile * patches_, columns = c.width / tile * patches_;
      const int most = patches_ * patches_ + rows * (columns + (unpad_ ? 1 : 0));
      least = least == 0 ? most : std::min(least, most);
      if (most < options.min_tokens || (options.max_tokens > 0 && most > options.max_tokens)) continue;
      choices_.push_back(c);
      most_rows_ = std::max(most_rows_, most);
    }
    if (choices_.empty()) {
      fail(ErrorCode::invalid_argument, "image_min_tokens ", options.min_tokens, ", image_max_tokens ",
           options.max_tokens, ": no grid of this encoder fits; the smallest has ", least, " rows");
    }
  }

  AnyRes layout(int width, int height) const {
    return lay_out_anyres(width, height, choices_, tower_.header.image_size, patches_, unpad_);
  }

  // 1.5: shortest edge to one tile, the middle cut out.
  void plan_crop(ImagePlan& p) const {
    const int64_t size = tower_.header.image_size;
    const bool tall = p.width <= p.height;
    p.resized_width = static_cast<int>(tall ? size : size * p.width / p.height);
    p.resized_height = static_cast<int>(tall ? size * p.height / p.width : size);
    const int side = static_cast<int>(size);
    const Frame frame{p.width,
                      p.height,
                      p.resized_width,
                      p.resized_height,
                      -((p.resized_width - side) / 2),
                      -((p.resized_height - side) / 2)};
    add_cells(p.boxes, frame, 0, 0, patches_, tower_.header.patch);
  }

  // 1.6: boxes in sequence order; a newline row has an empty one.
  void plan_tiles(ImagePlan& p) const {
    const int size = tower_.header.image_size, cell = tower_.header.patch;
    const AnyRes a = layout(p.width, p.height);
    p.resized_width = a.resized_width;
    p.resized_height = a.resized_height;
    p.n_tiles = 1 + a.canvas.width / size * (a.canvas.height / size);
    add_cells(p.boxes, {p.width, p.height, size, size}, 0, 0, patches_, cell);
    const Frame frame{p.width, p.height, a.resized_width, a.resized_height, a.left, a.top};
    for_each_row(a, [&](int row, int column) {
      if (column < 0) return p.boxes.push_back({});
      const int x = column / patches_ * size + column % patches_ * cell,
                y = row / patches_ * size + row % patches_ * cell;
      p.boxes.push_back(frame.box(x, y, x + cell, y + cell));
    });
  }

  // Rows behind the overview in sequence order: fn(row, column) of the stitched grid, column -1 for a newline.
  template <class Fn>
  void for_each_row(const AnyRes& a, Fn fn) const {
    const int rows = a.canvas.height / tower_.header.image_size, columns = a.canvas.width / tower_.header.image_size;
    const int n = patches_;
    for (int t = 0; !stitch_ && t < rows * columns; ++t) {
      for (int k = 0; k < n * n; ++k) fn(t / columns * n + k / n, t % columns * n + k % n);
    }
    for (int r = a.row_begin; stitch_ && r < a.row_end; ++r) {
      for (int c = a.column_begin; c < a.column_end; ++c) fn(r, c);
      if (unpad_ && newline_.size() != 0) fn(r, -1);
    }
  }

  // The encoder row behind every returned row; -1: newline.
  std::vector<int32_t> source_rows(const ImagePlan& plan) const {
    const int n = patches_, size = tower_.header.image_size;
    std::vector<int32_t> rows = tower_.shuffle_index(1, 1);
    if (choices_.empty()) return rows;
    const AnyRes a = layout(plan.width, plan.height);
    for_each_row(a, [&](int row, int column) {
      const int tile = 1 + row / n * (a.canvas.width / size) + column / n;
      rows.push_back(column < 0 ? -1 : tile * tower_.rows_per_tile() + tower_.n_class() + row % n * n + column % n);
    });
    return rows;
  }

  std::shared_ptr<const Gguf> file_;
  Backend& backend_;
  std::vector<int> features_;
  int patches_ = 0;                  // a side of a tile
  std::vector<Resolution> choices_;  // empty: LLaVA-1.5
  int most_rows_ = 0;
  bool stitch_ = true, unpad_ = true;
  TileTower tower_;
  Mlp mlp_;                // second: empty when the projector is one matrix
  Buffer<float> newline_;  // [row_width], on the host; empty when absent
};

}  // namespace

std::unique_ptr<VisionEncoder> load_llava(const VisionSource& source) {
  const Gguf& file = *source.file;
  const VisionHeader header = read_vision_header(file);
  if (file.find_tensor("mm.3.weight")) {
    fail(ErrorCode::unsupported, file.path(), ": this projector has normalised layers (tensor 'mm.3.weight', Yi-VL), ",
         "expected LLaVA's 'mm.0' and 'mm.2' alone");
  }
  const bool two = file.find_tensor("mm.2.weight") != nullptr;
  const int64_t n_out = file.tensor(two ? "mm.2.weight" : "mm.0.weight").rows();
  check_text_width(file, source.text, n_out);
  return std::make_unique<Llava>(source, header, n_out);
}

}  // namespace foveal
