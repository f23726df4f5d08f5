// Square tiles: cutting, boxes in original pixels, and one pass of the tower over all of them.
#include "engine/vision/tiles.h"

#include <algorithm>

namespace foveal {

Tile make_tile(ImageView image, const Normalisation& n) {
  Tile t;
  t.width = image.width;
  t.height = image.height;
  t.pixels.resize(static_cast<size_t>(3) * static_cast<size_t>(image.width) * static_cast<size_t>(image.height));
  normalise(t.pixels.data(), image, n);
  return t;
}

void cut_tiles(std::vector<Tile>& out, ImageView image, int size, const Normalisation& n) {
  for (int y = 0; y < image.height; y += size) {
    for (int x = 0; x < image.width; x += size) {
      out.push_back(make_tile({image.rgb + y * image.stride + int64_t{3} * x, size, size, image.stride}, n));
    }
  }
}

Box Frame::box(double x0, double y0, double x1, double y1) const {
  const double sx = static_cast<double>(width) / resized_width, sy = static_cast<double>(height) / resized_height;
  const auto at_x = [&](double x) { return static_cast<float>(std::clamp((x - left) * sx, 0.0, double(width))); };
  const auto at_y = [&](double y) { return static_cast<float>(std::clamp((y - top) * sy, 0.0, double(height))); };
  return {at_x(x0), at_y(y0), at_x(x1), at_y(y1)};
}

void add_cells(std::vector<Box>& boxes, const Frame& frame, int x, int y, int n, int cell) {
  for (int r = 0; r < n; ++r) {
    for (int c = 0; c < n; ++c) {
      boxes.push_back(frame.box(x + c * cell, y + r * cell, x + (c + 1) * cell, y + (r + 1) * cell));
    }
  }
}

TileTower::TileTower(const Loader& load, const VisionHeader& h, int n_layer)
    : header(h), cls(load.optional_floats("v.class_embd", h.n_embd)) {
  positions = load.table("v.position_embd.weight", h.n_embd, rows_per_tile());
  patches = load.patch_embedding({"v.patch_embd.weight"}, h.patch, h.n_embd, kernel);
  if (load.file.find_tensor("v.pre_ln.weight")) pre_ln = load.norm("v.pre_ln", h.n_embd, h.eps);
  vit = Vit(load, h, n_layer);
}

VitScratch TileTower::scratch(Arena& arena, int n_tiles) const {
  return vit.scratch(arena, int64_t{n_tiles} * rows_per_tile(), header.patch);
}

std::vector<int32_t> TileTower::segments(int n_tiles) const {
  std::vector<int32_t> s;
  for (int t = 0; t <= n_tiles; ++t) s.push_back(t * rows_per_tile());
  return s;
}

void TileTower::embed(Backend& b, VitScratch& s, const std::vector<Tile>& tiles) const {
  const int64_t n = rows_per_tile(), first = n_class(), n_pixels = int64_t{3} * header.patch * header.patch;
  const Mat cells(s.wide.data, s.x.rows, n_pixels);
  if (static_cast<int64_t>(tiles.size()) * n != s.x.rows) {
    fail(ErrorCode::invalid_argument, tiles.size(), " tiles given, expected ", s.x.rows / n, " as planned");
  }
  for (size_t t = 0; t < tiles.size(); ++t) {
    if (tiles[t].width != header.image_size || tiles[t].height != header.image_size) {
      fail(ErrorCode::invalid_argument, "tile of ", tiles[t].width, "x", tiles[t].height, " pixels, expected ",
           header.image_size, "x", header.image_size);
    }
    const Mat rows = cells.rows_at(static_cast<int64_t>(t) * n, n);
    b.patch_rows(rows.rows_at(first, n - first), tiles[t].pixels.data(), tiles[t].height, tiles[t].width, header.patch);
    // The class embedding will replace this row's product: any numbers will do.
    if (first) b.copy(rows.row(0), rows.row(1), static_cast<size_t>(n_pixels) * sizeof(float));
  }
  patches(b, s.x, cells);
  const ConstMat pos(positions.data(), n, header.n_embd);
  for (size_t t = 0; t < tiles.size(); ++t) {
    const Mat rows = s.x.rows_at(static_cast<int64_t>(t) * n, n);
    if (first) b.copy(rows.row(0), cls.data(), cls.bytes());
    b.add(rows, pos);
  }
  if (pre_ln.weight.size() != 0) pre_ln(b, s.x, s.x);
}

void TileTower::run(Backend& b, VitScratch& s, const std::vector<Tile>& tiles, const CancelFlag* cancel) const {
  embed(b, s, tiles);
  const auto parts = segments(static_cast<int>(tiles.size()));
  for (int il = 0; il < vit.n_layer(); ++il) {
    throw_if_cancelled(cancel);
    vit.layer(b, il, s, parts, nullptr);
  }
}

std::vector<int32_t> TileTower::shuffle_index(int n_tiles, int s) const {
  std::vector<int32_t> index;
  const int grid = header.grid(), cells = grid / s;
  for (int t = 0; t < n_tiles; ++t) {
    for (int cell = 0; cell < cells * cells; ++cell) {
      for (int k = 0; k < s * s; ++k) {
        const int row = cell / cells * s + k / s, column = cell % cells * s + k % s;
        index.push_back(t * rows_per_tile() + n_class() + row * grid + column);
      }
    }
  }
  return index;
}

int merged_grid(const Gguf& file, const VisionHeader& header, int s) {
  if (header.grid() % s != 0) {
    fail(ErrorCode::file_format, file.path(), ": a tile has ", header.grid(), "x", header.grid(),
         " patches ('clip.vision.image_size' / 'clip.vision.patch_size'), expected a multiple of ", s,
         " (patches merged into a row, 'clip.vision.projector.scale_factor')");
  }
  return header.grid() / s;
}

void check_fixed_rows(const VisionOptions& options, int n_rows) {
  if (options.min_tokens <= n_rows && (options.max_tokens == 0 || options.max_tokens >= n_rows)) return;
  fail(ErrorCode::invalid_argument, "image_min_tokens ", options.min_tokens, ", image_max_tokens ", options.max_tokens,
       ": this encoder gives ", n_rows, " rows for every picture; leave both out");
}

std::vector<std::pair<std::string, std::string>> describe_tiles(const std::string& projector, const VisionHeader& h,
                                                                const std::string& rows) {
  return {{"projector", projector}, {"layers", cat(h.n_layer)},        {"width", cat(h.n_embd)},
          {"patch", cat(h.patch)},  {"image_size", cat(h.image_size)}, {"rows_per_image", rows}};
}

std::string normalisation_id(const Normalisation& n) {
  std::string id;
  for (size_t c = 0; c < 3; ++c) id += cat(" ", n.mean[c], " ", n.std[c]);
  return id;
}

int64_t pixel_bytes(int64_t n_tiles, int64_t width, int64_t height) {
  return n_tiles * width * height * 3 * static_cast<int64_t>(sizeof(float));
}

}  // namespace foveal
