// What the three Qwen-VL encoders share: the target size, patches in blocks of merge x merge, two-dimensional RoPE.
#pragma once

#include <vector>

#include "engine/vision/vit.h"

namespace foveal {

struct QwenScratch {
  VitScratch vit;  // T = patches
  Mat rope;        // [T, head_dim] cosines, then sines
};

struct QwenPatches {
  QwenPatches() = default;
  // merge: patches a side that become one row. Limits: the options', else the file's clip.vision.image_*_pixels, else
  // 4 to 16,384 rows.
  QwenPatches(const Loader& load, const VisionHeader& header, int merge, const VisionOptions& options);

  // Everything of the plan but scratch_bytes: smart_resize of the original processor (Qwen2-VL, arXiv 2409.12191).
  ImagePlan plan(int width, int height) const;
  std::vector<Tile> preprocess(ImageView image, const ImagePlan& plan) const;
  // Raster index of every patch, blocks row by row, patches of a block row by row.
  std::vector<int32_t> block_order(const ImagePlan& plan) const;
  // s.x row i = embedded patch order[i].
  void embed(Backend& b, VitScratch& s, const std::vector<Tile>& tiles, const ImagePlan& plan,
             std::span<const int32_t> order) const;
  // cs [n_patches, head_dim]: first half of the pairs turns by the row, second by the column, base 10000.
  void rope_rows(Backend& b, Mat cs, const ImagePlan& plan, std::span<const int32_t> order) const;
  QwenScratch scratch(Arena& arena, const Vit& vit, const ImagePlan& plan) const;
  // Bytes that encoding takes: scratch, pixels and returned rows.
  int64_t encode_bytes(const Vit& vit, const ImagePlan& plan, int row_width) const;
  std::string id() const;  // for preprocessing_id
  std::vector<std::pair<std::string, std::string>> describe(const std::string& projector) const;
  int64_t n_patches(const ImagePlan& plan) const { return int64_t{plan.n_rows} * merge * merge; }
  int64_t block_width() const { return int64_t{merge} * merge * header.n_embd; }  // patches of a row side by side

  VisionHeader header;
  int merge = 2, factor = 0;  // factor: pixels a side of a row
  int64_t min_pixels = 0, max_pixels = 0;
  bool capped = false;  // max_pixels is what the caller set, not the file
  Linear patches;
  Buffer<float> kernel;

 private:
  void fill_rope_rows(Mat cs, const ImagePlan& plan, std::span<const int32_t> order) const;  // cs: host memory
};

}  // namespace foveal
