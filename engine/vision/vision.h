// A picture's way to rows of the decoder's embedding: plan (sizes only), preprocess (pixels), encode (ViT + projector).
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/vision/image.h"

namespace foveal {

struct Box {
  float x0, y0, x1, y1;
};

// What the sequence gets for a picture, in order: control text (parsed with special tokens) or a run of rows.
struct ImagePiece {
  std::string text;  // when n_rows == 0
  int first_row = 0, n_rows = 0;
};

// Everything that follows from a picture's size alone.
struct ImagePlan {
  int width = 0, height = 0;         // original
  int n_rows = 0;                    // rows that encode() returns
  int grid_rows = 0, grid_cols = 0;  // merged grid, for M-RoPE families; 0 otherwise
  bool bidirectional = false;        // the rows see each other both ways (Gemma 3)
  std::vector<ImagePiece> pieces;    // wrapping text and rows, in sequence order
  std::vector<Box> boxes;  // [n_rows]: the region of each row in ORIGINAL pixel coordinates (newline rows: empty box)
  int resized_width = 0, resized_height = 0;  // of the main (refined) picture, before tiling
  int n_tiles = 1;
  int64_t scratch_bytes = 0;  // encoder memory for this picture
};

// One preprocessed tile: planar float32 [3][height][width], normalised.
struct Tile {
  std::vector<float> pixels;
  int width = 0, height = 0;
};

enum class VisionPrecision { automatic, f32, bf16, bf16x3 };  // automatic: bf16x3 where the backend has it

struct VisionOptions {
  int min_tokens = 0, max_tokens = 0;  // rows per picture; 0: the file's or the family's own
  // The transformer's products: float32, bfloat16 (an error of its own), or three of those, nearly as exact as float32.
  VisionPrecision precision = VisionPrecision::automatic;
};

using CancelFlag = std::atomic<bool>;

class VisionEncoder {
 public:
  virtual ~VisionEncoder() = default;
  const std::string& projector() const { return projector_; }
  // Width of a returned row: n_embd of the text model * (1 + deepstack levels).
  int row_width() const { return row_width_; }
  int n_deepstack() const { return n_deepstack_; }
  // A string that changes whenever preprocessing would: part of a picture's identity.
  virtual std::string preprocessing_id() const = 0;

  virtual ImagePlan plan(int width, int height) const = 0;  // ErrorCode::image when the size is out of limits
  virtual std::vector<Tile> preprocess(ImageView image, const ImagePlan& plan) const = 0;
  // Rows [n_rows, row_width] in sequence order. Checks `cancel` between layers: ErrorCode::state "cancelled".
  virtual Matrix encode(const std::vector<Tile>& tiles, const ImagePlan& plan, const CancelFlag* cancel) const = 0;
  // "encoder": pairs for `info`: layers, width, patch, image size, projector, tokens per picture
  std::vector<std::pair<std::string, std::string>> describe;

 protected:
  std::string projector_;
  int row_width_ = 0, n_deepstack_ = 0;
};

// Loads the mmproj. `text` is checked against it from the headers before any weight is read (mismatch: both files, both
// numbers). `backend` must outlive the encoder. Errors: file_format, unsupported (lists the projectors), mismatch.
std::unique_ptr<VisionEncoder> load_vision(std::shared_ptr<const Gguf> mmproj, const Gguf& text, Backend& backend,
                                           const VisionOptions& options);

}  // namespace foveal
