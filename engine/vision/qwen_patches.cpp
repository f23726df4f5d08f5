// Target size, patch order and RoPE angles of the Qwen-VL encoders, as the original processor and model define them.
#include "engine/vision/qwen_patches.h"

#include <algorithm>
#include <cmath>

#include "engine/vision/tiles.h"

namespace foveal {
namespace {

constexpr int64_t kMinRows = 4, kMaxRows = 16384;  // rows a picture, of family and engine

// Nearest multiple, ties to the even one as Python's round().
int64_t nearest_multiple(int side, int factor) {
  return static_cast<int64_t>(std::nearbyint(double(side) / factor)) * factor;
}
int64_t floor_multiple(double side, int factor) {
  return static_cast<int64_t>(std::floor(side / factor)) * factor;
}
int64_t ceil_multiple(double side, int factor) {
  return static_cast<int64_t>(std::ceil(side / factor)) * factor;
}

}  // namespace

QwenPatches::QwenPatches(const Loader& load, const VisionHeader& h, int merge, const VisionOptions& options)
    : header(h), merge(merge), factor(h.patch * merge) {
  const Gguf& file = load.file;
  if (h.head_dim() % 4 != 0) {
    fail(ErrorCode::file_format, file.path(), ": a head has ", h.head_dim(),
         " numbers ('clip.vision.embedding_length' / 'clip.vision.attention.head_count'), expected a multiple of 4");
  }
  const int64_t area = int64_t{factor} * factor;
  constexpr int64_t kLargest = int64_t{1} << 40;
  min_pixels = file.find_int("clip.vision.image_min_pixels", 1, kLargest).value_or(kMinRows * area);
  const int64_t most = std::min(kMaxRows * area, kMaxImagePixels);
  max_pixels = std::clamp(file.find_int("clip.vision.image_max_pixels", 1, kLargest).value_or(kLargest), area, most);
  if (min_pixels > max_pixels) {
    fail(ErrorCode::file_format, file.path(), ": key 'clip.vision.image_min_pixels' is ", min_pixels,
         ", expected at most ", max_pixels, " ('clip.vision.image_max_pixels', or ", kMaxRows, " rows a picture)");
  }
  if (options.min_tokens > kMaxRows || options.max_tokens > kMaxRows) {
    fail(ErrorCode::invalid_argument, "image_min_tokens ", options.min_tokens, ", image_max_tokens ",
         options.max_tokens, ": expected at most ", kMaxRows);
  }
  capped = options.max_tokens > 0;
  if (capped) max_pixels = std::min(options.max_tokens * area, most);
  if (options.min_tokens > 0) {
    min_pixels = std::min(options.min_tokens * area, most);
    if (options.max_tokens == 0) max_pixels = std::max(max_pixels, min_pixels);
  }
  min_pixels = std::min(min_pixels, max_pixels);
  patches = load.patch_embedding({"v.patch_embd.weight", "v.patch_embd.weight.1"}, h.patch, h.n_embd, kernel);
}

ImagePlan QwenPatches::plan(int width, int height) const {
  check_image_size(width, height);
  if (std::max(width, height) > 200 * std::min(width, height)) {
    fail(ErrorCode::image, "picture of ", width, "x", height,
         " pixels: expected sides that differ by at most 200:1 for this encoder; crop the picture or add a border");
  }
  int64_t w = nearest_multiple(width, factor), h = nearest_multiple(height, factor);
  const double area = static_cast<double>(width) * height;
  if (w * h > max_pixels) {
    const double shrink = std::sqrt(area / static_cast<double>(max_pixels));
    w = std::max<int64_t>(factor, floor_multiple(width / shrink, factor));
    h = std::max<int64_t>(factor, floor_multiple(height / shrink, factor));
  } else if (w * h < min_pixels) {
    const double grow = std::sqrt(static_cast<double>(min_pixels) / area);
    w = ceil_multiple(width * grow, factor);
    h = ceil_multiple(height * grow, factor);
  }
  // Long narrow pictures can pass a small maximum by the roundings above: where the caller set it, the longer side
  // gives way.
  int64_t& longer = w > h ? w : h;
  const int64_t shorter = std::min(w, h);
  if (capped && w * h > max_pixels && shorter < longer) {
    longer = std::max<int64_t>(factor,
                               floor_multiple(static_cast<double>(max_pixels) / static_cast<double>(shorter), factor));
  }

  ImagePlan p;
  p.width = width;
  p.height = height;
  p.resized_width = static_cast<int>(w);
  p.resized_height = static_cast<int>(h);
  p.grid_rows = p.resized_height / factor;
  p.grid_cols = p.resized_width / factor;
  p.n_rows = p.grid_rows * p.grid_cols;
  p.pieces = {{"<|vision_start|>"}, {"", 0, p.n_rows}, {"<|vision_end|>"}};
  const Frame frame{width, height, p.resized_width, p.resized_height};
  for (int r = 0; r < p.grid_rows; ++r) {
    for (int c = 0; c < p.grid_cols; ++c) {
      p.boxes.push_back(frame.box(c * factor, r * factor, (c + 1) * factor, (r + 1) * factor));
    }
  }
  return p;
}

std::vector<Tile> QwenPatches::preprocess(ImageView image, const ImagePlan& plan) const {
  std::vector<Tile> tiles;
  tiles.push_back(
      make_tile(resize(image, plan.resized_width, plan.resized_height, Filter::bicubic).view(), header.norm));
  return tiles;
}

std::vector<int32_t> QwenPatches::block_order(const ImagePlan& plan) const {
  std::vector<int32_t> order;
  const int stride = plan.grid_cols * merge;
  for (int r = 0; r < plan.grid_rows; ++r) {
    for (int c = 0; c < plan.grid_cols; ++c) {
      for (int k = 0; k < merge * merge; ++k) order.push_back((r * merge + k / merge) * stride + c * merge + k % merge);
    }
  }
  return order;
}

void QwenPatches::embed(Backend& b, VitScratch& s, const std::vector<Tile>& tiles, const ImagePlan& plan,
                        std::span<const int32_t> order) const {
  if (tiles.size() != 1 || tiles[0].width != plan.resized_width || tiles[0].height != plan.resized_height) {
    fail(ErrorCode::invalid_argument, "pixels given don't fit the plan: expected one tile of ", plan.resized_width, "x",
         plan.resized_height);
  }
  const Mat cells(s.wide.data, s.x.rows, int64_t{3} * header.patch * header.patch);
  b.patch_rows(cells, tiles[0].pixels.data(), plan.resized_height, plan.resized_width, header.patch);
  patches(b, s.normed, cells);
  b.merge_rows(s.x, s.normed, order, 1);
}

void QwenPatches::rope_rows(Backend& b, Mat cs, const ImagePlan& plan, std::span<const int32_t> order) const {
  if (b.memory()) {
    Matrix here(cs.rows, cs.cols);
    fill_rope_rows(here.view(), plan, order);
    return b.copy_in(cs.data, here.view().data, here.bytes());
  }
  fill_rope_rows(cs, plan, order);
}

void QwenPatches::fill_rope_rows(Mat cs, const ImagePlan& plan, std::span<const int32_t> order) const {
  const int half = header.head_dim() / 2, quarter = half / 2, stride = plan.grid_cols * merge;
  // Cosines and sines of one coordinate, for as many as the longer side has.
  const int n = std::max(plan.grid_rows, plan.grid_cols) * merge;
  std::vector<float> cosine(static_cast<size_t>(n * quarter)), sine(cosine.size());
  for (int k = 0; k < n * quarter; ++k) {
    const double angle = k / quarter * std::pow(10000.0, -2.0 * (k % quarter) / half);
    cosine[static_cast<size_t>(k)] = static_cast<float>(std::cos(angle));
    sine[static_cast<size_t>(k)] = static_cast<float>(std::sin(angle));
  }
  for (int64_t t = 0; t < cs.rows; ++t) {
    const int raster = order[static_cast<size_t>(t)], row = raster / stride * quarter,
              column = raster % stride * quarter;
    float* out = cs.row(t);
    std::copy_n(cosine.data() + row, quarter, out);
    std::copy_n(cosine.data() + column, quarter, out + quarter);
    std::copy_n(sine.data() + row, quarter, out + half);
    std::copy_n(sine.data() + column, quarter, out + half + quarter);
  }
}

QwenScratch QwenPatches::scratch(Arena& arena, const Vit& vit, const ImagePlan& plan) const {
  return {vit.scratch(arena, n_patches(plan), header.patch), arena.take(n_patches(plan), header.head_dim())};
}

int64_t QwenPatches::encode_bytes(const Vit& vit, const ImagePlan& plan, int row_width) const {
  Arena measure;
  scratch(measure, vit, plan);
  return (measure.n_floats() + int64_t{plan.n_rows} * row_width) * 4 +
         pixel_bytes(1, plan.resized_width, plan.resized_height);
}

std::string QwenPatches::id() const {
  return cat("bicubic ", factor, " ", min_pixels, " ", max_pixels, normalisation_id(header.norm));
}

std::vector<std::pair<std::string, std::string>> QwenPatches::describe(const std::string& projector) const {
  const int64_t area = int64_t{factor} * factor;
  return {{"projector", projector},
          {"layers", cat(header.n_layer)},
          {"width", cat(header.n_embd)},
          {"patch", cat(header.patch)},
          {"image_size", "any"},
          {"rows_per_image", cat((min_pixels + area - 1) / area, " to ", max_pixels / area)}};
}

}  // namespace foveal
