// Rotary positions: the angle of each pair of a row, as cosines and sines. RoFormer (arXiv 2104.09864); linear scaling;
// YaRN (arXiv 2309.00071) as transformers computes it; Llama 3's factors; M-RoPE (arXiv 2409.12191).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/gguf/gguf.h"
#include "engine/models/text_model.h"

namespace foveal {

struct RopeParams {
  int n_rot = 0;
  double base = 10000, factor = 1;  // positions are divided by the factor
  bool yarn = false;
  double original_ctx = 0, attn_factor = 1, beta_fast = 32, beta_slow = 1;
};

// {arch}.rope.*, each key ranged. unsupported: a scaling type other than none, linear, yarn.
RopeParams read_rope_params(const Gguf& file, const TextParams& p);
// {arch}.rope.dimension_sections: t, h, w sections that sum to n_rot / 2.
std::vector<int64_t> read_rope_sections(const Gguf& file, const TextParams& p);
// rope_freqs.weight [n_rot / 2], Llama 3's factors, if the file has them; each finite and above 0.
Buffer<float> load_rope_factors(const Gguf& file, const TextParams& p, Backend& backend);

enum class Axis : uint8_t { t, h, w };
std::vector<Axis> mrope_axes(std::span<const int64_t> sections);              // Qwen2-VL: one section after the other
std::vector<Axis> interleaved_mrope_axes(std::span<const int64_t> sections);  // Qwen3-VL: t h w t h w ... t

class RopeTable {
 public:
  // divisors [n_rot / 2]: frequency i is divided by divisors[i]; axes [n_rot / 2]: position that pair i follows.
  // Either may be empty.
  explicit RopeTable(const RopeParams& p, std::span<const float> divisors = {}, std::vector<Axis> axes = {});
  // cs [T, n_rot]: n_rot / 2 cosines, then as many sines, of each row; computed in double.
  void rows(Mat cs, std::span<const Position> pos) const;

 private:
  std::vector<double> frequency_;  // radians a position, [n_rot / 2]
  std::vector<Axis> axes_;
  double magnitude_ = 1;
};

}  // namespace foveal
