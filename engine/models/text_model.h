// A decoder as three calls: embed, layer, head. Models see operations and their layer's KV, never eviction or threads.
#pragma once

#include <climits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/backend/backend.h"

namespace foveal {

// Position of a row: t alone for one-dimensional RoPE; (t, h, w) for M-RoPE. Text rows have t = h = w.
struct Position {
  int32_t t = 0, h = 0, w = 0;
};

struct TextParams {
  std::string arch, name;
  int n_layer = 0, n_head = 0, n_head_kv = 0, head_dim = 0, n_embd = 0, n_ff = 0, n_vocab = 0, n_ctx_train = 0;
  float eps = 0;
  bool mrope = false;
  int n_deepstack = 0;
  int n_rope_tables = 1;  // gemma3: 2 (global, local)
  int n_rot = 0;
  std::vector<int> sliding_window;  // [n_layer]; 0: the layer sees everything and may be evicted
  AttendParams attend;
};

// The layer's KV cache as a model sees it: appends k, v (after RoPE) of the rows at hand and attends with q.
class LayerKv {
 public:
  virtual ~LayerKv() = default;
  // q, out [T, n_head*D]; k, v [T, n_head_kv*D].
  virtual void attend(Mat out, ConstMat q, ConstMat k, ConstMat v) = 0;
};

// Working memory of layer(), sized once for the largest chunk; named by what it holds.
struct LayerScratch {
  LayerScratch(const TextParams& p, int64_t max_rows, Memory* memory = nullptr);
  Matrix normed;    // [T, n_embd]
  Matrix qkv;       // [T, (n_head + 2 n_head_kv) * D]
  Matrix attended;  // [T, n_head * D]
  Matrix branch;    // [T, n_embd]
  Matrix gate_up;   // [T, 2 n_ff]
  size_t bytes() const;
};

// What of a decoder is loaded: layers [first, stop), and which of its ends.
struct ModelPart {
  int first = 0, stop = INT_MAX;
  bool embedding = true, output = true;
  WeightStream* stream = nullptr;  // of the backend: the layers' matrices pass through it; norms and biases stay
};

class TextModel {
 public:
  virtual ~TextModel() = default;
  const TextParams& params() const { return params_; }

  virtual void embed(Mat x, std::span<const int32_t> ids) const = 0;  // x [T, n_embd]
  // cs [T, n_rot]: cosines then sines (magnitude factors included) of each row, table 0..n_rope_tables-1.
  virtual void rope_rows(Mat cs, std::span<const Position> pos, int table) const = 0;
  // One block over T rows, in place. rope: one [T, n_rot] view a table.
  virtual void layer(int il, Mat x, std::span<const ConstMat> rope, LayerKv& kv, LayerScratch& s) const = 0;
  // Final norm (x is overwritten by it) and output matrix; logits [T, n_vocab] in host memory.
  virtual void head(Mat logits, Mat x) const = 0;

 protected:
  explicit TextModel(TextParams params) : params_(std::move(params)) {}
  const TextParams params_;
};

// Builds the model that general.architecture names, or a part of it. `backend` must outlive it. unsupported lists the
// architectures.
std::unique_ptr<TextModel> load_text_model(std::shared_ptr<const Gguf> file, Backend& backend, ModelPart part = {});
// The params from the header alone (validated): `info`, `plan` and mismatch checks use it.
TextParams read_text_params(const Gguf& file);

}  // namespace foveal
