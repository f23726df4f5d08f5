// Families that cut a picture into square tiles of one size: pixels, boxes, and the tower that all tiles run through at
// once.
#pragma once

#include <vector>

#include "engine/vision/vit.h"

namespace foveal {

Tile make_tile(ImageView image, const Normalisation& n);
// Squares of `size` pixels, row by row; both sides are multiples of size.
void cut_tiles(std::vector<Tile>& out, ImageView image, int size, const Normalisation& n);

// A resized (and perhaps cropped or padded) picture's place in the original one.
struct Frame {
  int width = 0, height = 0;                                  // original
  int resized_width = 0, resized_height = 0;                  // what the original was stretched to
  int left = 0, top = 0;                                      // where that begins (padding > 0, crop < 0)
  Box box(double x0, double y0, double x1, double y1) const;  // original pixels, clipped to the picture
};

// Appends the boxes of n x n cells of `cell` pixels, row by row, the first at (x, y) of the frame.
void add_cells(std::vector<Box>& boxes, const Frame& frame, int x, int y, int n, int cell);

// Patch embedding, class row, learned positions and blocks for tiles of image_size x image_size; a tile's rows are
// [class row | patches row by row], tiles stacked.
struct TileTower {
  TileTower() = default;
  TileTower(const Loader& load, const VisionHeader& header, int n_layer);

  int n_class() const { return cls.size() == 0 ? 0 : 1; }
  int rows_per_tile() const { return header.grid() * header.grid() + n_class(); }
  VitScratch scratch(Arena& arena, int n_tiles) const;
  std::vector<int32_t> segments(int n_tiles) const;
  // s.x = embedded rows of all tiles. Tiles of another size: invalid_argument.
  void embed(Backend& b, VitScratch& s, const std::vector<Tile>& tiles) const;
  void run(Backend& b, VitScratch& s, const std::vector<Tile>& tiles, const CancelFlag* cancel) const;
  // For merge_rows: the s*s patches of each merged cell, (dy, dx) row by row, of all tiles.
  std::vector<int32_t> shuffle_index(int n_tiles, int s) const;

  VisionHeader header;
  Vit vit;
  Linear patches;
  Buffer<float> kernel, cls, positions;
  Norm pre_ln;  // empty when absent
};

// Rows a tile when s x s patches become one. file_format unless the grid divides by s.
int merged_grid(const Gguf& file, const VisionHeader& header, int s);

// For encoders that give every picture the same number of rows: invalid_argument when the options exclude it.
void check_fixed_rows(const VisionOptions& options, int n_rows);
// Name, sizes and rows for `info`.
std::vector<std::pair<std::string, std::string>> describe_tiles(const std::string& projector,
                                                                const VisionHeader& header, const std::string& rows);
std::string normalisation_id(const Normalisation& n);  // a part of preprocessing_id

int64_t pixel_bytes(int64_t n_tiles, int64_t width, int64_t height);

}  // namespace foveal
