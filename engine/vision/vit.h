// What the vision transformers of all families share: the header's numbers, the pre-norm block, working memory.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/vision/vision.h"

namespace foveal {

// The keys that every mmproj file has, each in its range.
struct VisionHeader {
  int image_size = 0, patch = 0;  // pixels
  int n_embd = 0, n_layer = 0, n_head = 0;
  float eps = 0;
  Act act = Act::gelu_quick;  // clip.use_gelu: tanh form; clip.use_silu; neither: quick
  Normalisation norm;
  int head_dim() const { return n_embd / n_head; }
  int grid() const { return image_size / patch; }  // whole patches a side
};
VisionHeader read_vision_header(const Gguf& file);

// A pair that the text file must agree with: the width of a projected row (without deepstack levels).
// mismatch: names both files and both numbers.
void check_text_width(const Gguf& mmproj, const Gguf& text, int64_t projected);
// mismatch unless the text file's architecture is one of these (families with their own kind of positions or masks).
void check_text_arch(const Gguf& mmproj, const Gguf& text, const std::string& projector,
                     std::initializer_list<const char*> archs);

// Named pieces of one allocation in a backend's memory. A pass without memory measures, the next one hands out.
class Arena {
 public:
  Arena() = default;  // measures
  Arena(int64_t n_floats, Backend& b) : memory_(static_cast<size_t>(n_floats), b.memory()), measuring_(false) {}
  Mat take(int64_t rows, int64_t cols);
  int64_t n_floats() const { return used_; }

 private:
  Buffer<float> memory_;
  int64_t used_ = 0;
  bool measuring_ = true;
};

// LayerNorm, or RMSNorm when the file has no bias for it.
struct Norm {
  Buffer<float> weight, bias;
  float eps = 0;
  void operator()(Backend& b, Mat out, ConstMat x) const;
};
// Affine map; bias may be missing in the file.
struct Linear {
  WeightPtr weight;
  Buffer<float> bias;
  void operator()(Backend& b, Mat out, ConstMat x) const;
  int64_t rows() const { return weight->rows; }
};

// Two maps with an exact GELU between them: the projector of most families. hidden [x.rows, first.rows()].
struct Mlp {
  Linear first, second;
  void operator()(Backend& b, Mat out, ConstMat x, Mat hidden) const;
};

// Reads tensors by name with their shapes checked.
class Loader {
 public:
  // precision: of what `product` loads.
  Loader(const Gguf& file, Backend& backend, VisionPrecision precision = VisionPrecision::automatic)
      : file(file), backend(backend), precision(precision) {}
  Buffer<float> floats(const std::string& name, int64_t n) const;
  Buffer<float> optional_floats(const std::string& name, int64_t n) const;  // empty when absent
  Buffer<float> table(const std::string& name, int64_t cols, int64_t rows) const;
  Buffer<float> to_host(Buffer<float> there) const;  // what the host itself works on, from the backend's memory
  Norm norm(const std::string& prefix, int64_t n, float eps) const;
  Linear linear(const std::string& prefix, int64_t in, int64_t out) const;
  // A matrix of the transformer's blocks: the precision is the user's choice. Parts are stacked by rows.
  WeightPtr product(std::span<const TensorInfo* const> parts) const;
  Linear block_linear(const std::string& prefix, int64_t in, int64_t out) const;
  int64_t outputs(const std::string& prefix, int64_t in) const;  // rows of prefix.weight, which must have `in` columns
  // Convolution kernel [out][3][patch][patch] as a matrix over patch_rows' order; several kernels are summed (a still
  // picture fills every frame). `keep` holds the sum as long as the weight lives.
  Linear patch_embedding(const std::vector<std::string>& names, int64_t patch, int64_t out, Buffer<float>& keep) const;
  // A float32 matrix [rows, cols] that lives in `data`.
  WeightPtr own_matrix(const std::string& name, const Buffer<float>& data, int64_t rows, int64_t cols) const;

  const Gguf& file;
  Backend& backend;
  const VisionPrecision precision;
};

struct VitBlock {
  Norm ln1, ln2, q_norm, k_norm;    // q_norm, k_norm: over the whole row; empty when absent
  Linear qkv, out, gate, up, down;  // gate: empty without GLU
  Buffer<float> ls1, ls2;           // layer scale; empty when absent
};

struct VitScratch {
  Mat x;         // [T, n_embd] the residual stream
  Mat normed;    // [T, n_embd]
  Mat attended;  // [T, n_embd]
  Mat wide;      // [T, wide_cols]: patches, then q|k|v, then slices of the hidden layer
};

class Vit {
 public:
  Vit() = default;
  // Blocks 0..n_layer-1 of the file.
  Vit(const Loader& load, const VisionHeader& header, int n_layer);

  VitScratch scratch(Arena& arena, int64_t n_rows, int patch) const;
  // One block over s.x in place. Rows see their own segment; rope: cosines and sines of each row, or nullptr.
  void layer(Backend& b, int il, VitScratch& s, std::span<const int32_t> segments, const ConstMat* rope) const;
  int n_layer() const { return static_cast<int>(blocks_.size()); }

 private:
  void feed_forward(Backend& b, const VitBlock& block, VitScratch& s) const;

  std::vector<VitBlock> blocks_;
  int64_t n_embd_ = 0, n_ff_ = 0;
  int n_head_ = 0;
  Act act_ = Act::gelu_quick;
};

// Rows that a backend has written to its own memory, in the host's.
Matrix to_host(Backend& b, Matrix there);

void throw_if_cancelled(const CancelFlag* cancel);

}  // namespace foveal
