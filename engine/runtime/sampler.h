// Logits -> token: repeat penalty, top-k, top-p, min-p, temperature, draw (llama.cpp's order). Greedy at temperature 0.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/engine.h"

namespace foveal {

class Sampler {
 public:
  // Checks every range (invalid_argument names the option).
  Sampler(const SampleOptions& options, int32_t n_vocab, std::span<const int32_t> suppressed);
  // history: tokens so far, newest last (-1 entries are skipped). state error when a logit is NaN.
  int32_t sample(std::span<const float> logits, std::span<const int32_t> history);
  uint64_t seed() const { return seed_; }

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  void penalise(std::span<const int32_t> history);
  int32_t greedy() const;
  int32_t draw();
  uint64_t random();

  SampleOptions options_;
  std::vector<float> logits_;
  std::vector<Candidate> candidates_;
  std::vector<int32_t> suppressed_;
  uint64_t seed_ = 0, state_ = 0;
};

}  // namespace foveal
