// The sampler chain.
#include "engine/runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace foveal {

namespace {
void check_range(const char* name, double value, double min, double max) {
  if (!(value >= min && value <= max))
    fail(ErrorCode::invalid_argument, name, ": found ", value, ", expected ", min, " to ", max);
}
}  // namespace

Sampler::Sampler(const SampleOptions& o, int32_t n_vocab, std::span<const int32_t> suppressed)
    : options_(o), logits_(static_cast<size_t>(n_vocab)), suppressed_(suppressed.begin(), suppressed.end()) {
  check_range("temperature", o.temperature, 0, 1e6);
  check_range("top_k", o.top_k, 0, std::numeric_limits<int>::max());
  check_range("top_p", o.top_p, 0, 1);
  check_range("min_p", o.min_p, 0, 1);
  check_range("repeat_penalty", o.repeat_penalty, 1e-3, 1e3);
  check_range("repeat_last_n", o.repeat_last_n, 0, std::numeric_limits<int>::max());
  candidates_.reserve(static_cast<size_t>(n_vocab));
  seed_ = o.seed ? *o.seed : (uint64_t{std::random_device{}()} << 32 | std::random_device{}());
  state_ = seed_;
}

// SplitMix64 (Steele, Lea, Flood 2014).
uint64_t Sampler::random() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// A token seen among the last n is divided (positive logit) or multiplied (negative) by the penalty, once.
void Sampler::penalise(std::span<const int32_t> history) {
  if (options_.repeat_penalty == 1.0f) return;
  const size_t n = std::min(history.size(), static_cast<size_t>(options_.repeat_last_n));
  const auto recent = history.last(n);
  for (size_t i = 0; i < n; ++i) {
    const int32_t id = recent[i];
    if (id < 0 ||
        std::find(recent.begin(), recent.begin() + static_cast<long>(i), id) != recent.begin() + static_cast<long>(i))
      continue;
    float& l = logits_[static_cast<size_t>(id)];
    l = l > 0 ? l / options_.repeat_penalty : l * options_.repeat_penalty;
  }
}

int32_t Sampler::greedy() const {
  return static_cast<int32_t>(std::max_element(logits_.begin(), logits_.end()) - logits_.begin());
}

int32_t Sampler::draw() {
  const auto higher = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  candidates_.clear();
  for (size_t i = 0; i < logits_.size(); ++i)
    if (logits_[i] > -std::numeric_limits<float>::infinity())
      candidates_.push_back({logits_[i], static_cast<int32_t>(i)});
  if (candidates_.empty()) fail(ErrorCode::state, "no token left to sample: every logit is -inf");
  size_t n = candidates_.size();
  if (options_.top_k > 0) n = std::min(n, static_cast<size_t>(options_.top_k));
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<long>(n), candidates_.end(), higher);
  const float top = candidates_[0].logit;
  double total = 0;
  for (size_t i = 0; i < n; ++i) total += std::exp(static_cast<double>(candidates_[i].logit - top));
  if (options_.top_p < 1.0f) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i) {
      sum += std::exp(static_cast<double>(candidates_[i].logit - top)) / total;
      if (sum >= options_.top_p) n = i + 1;
    }
  }
  const double least = top + (options_.min_p > 0 ? std::log(static_cast<double>(options_.min_p)) : -HUGE_VAL);
  while (n > 1 && candidates_[n - 1].logit < least) --n;
  total = 0;
  for (size_t i = 0; i < n; ++i)
    total += std::exp((candidates_[i].logit - top) / static_cast<double>(options_.temperature));
  double u = static_cast<double>(random() >> 11) * 0x1.0p-53 * total;
  for (size_t i = 0; i < n; ++i) {
    u -= std::exp((candidates_[i].logit - top) / static_cast<double>(options_.temperature));
    if (u < 0) return candidates_[i].id;
  }
  return candidates_[n - 1].id;
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const int32_t> history) {
  for (const float l : logits)
    if (std::isnan(l) || l == std::numeric_limits<float>::infinity())
      fail(ErrorCode::state, "the model's logits hold NaN or infinity: the weights or the cache are damaged");
  std::copy(logits.begin(), logits.end(), logits_.begin());
  for (const int32_t id : suppressed_) logits_[static_cast<size_t>(id)] = -std::numeric_limits<float>::infinity();
  penalise(history);
  return options_.temperature == 0.0f ? greedy() : draw();
}

}  // namespace foveal
