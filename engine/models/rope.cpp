// Frequencies from the file's keys, and the rows of cosines and sines that layers rotate by.
#include "engine/models/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/core/error.h"

namespace foveal {
namespace {

// YaRN: pairs that turn often in the original context keep their frequency, slow ones are interpolated, between them a
// ramp; all cosines and sines grow a little.
void apply_yarn(std::vector<double>& frequency, const RopeParams& p) {
  const auto pair_of = [&](double turns) {
    return p.n_rot * std::log(p.original_ctx / (turns * 2 * std::numbers::pi)) / (2 * std::log(p.base));
  };
  const double low = std::max(0.0, std::floor(pair_of(p.beta_fast)));
  const double high = std::min(p.n_rot - 1.0, std::ceil(pair_of(p.beta_slow)));
  for (size_t i = 0; i < frequency.size(); ++i) {
    const double span = std::max(0.001, high - low);
    const double keep = 1 - std::clamp((static_cast<double>(i) - low) / span, 0.0, 1.0);
    frequency[i] = frequency[i] / p.factor * (1 - keep) + frequency[i] * keep;
  }
}

}  // namespace

RopeParams read_rope_params(const Gguf& file, const TextParams& p) {
  const std::string key = p.arch + ".rope.", scaling = key + "scaling.";
  RopeParams r;
  r.n_rot = p.n_rot;
  r.base = file.find_float(key + "freq_base", 1.001, 1e15).value_or(10000.0);
  const std::string* type = file.find_string(scaling + "type");
  if (type && *type != "none" && *type != "linear" && *type != "yarn")
    fail(ErrorCode::unsupported, file.path(), ": key '", scaling, "type': found ", quoted(*type),
         ", supported are 'none', 'linear', 'yarn'");
  const auto factor = file.find_float(scaling + "factor", 0.0, 1e6);
  const auto old_factor = file.find_float(key + "scale_linear", 0.0, 1e6);
  r.factor = factor ? *factor : old_factor.value_or(1.0);
  if ((type && *type == "none") || r.factor == 0) r.factor = 1;  // 0: not scaled, in files of old converters
  r.yarn = type && *type == "yarn" && r.factor != 1;
  const auto original = file.find_int(scaling + "original_context_length", 1, INT32_MAX);
  r.original_ctx = static_cast<double>(original.value_or(p.n_ctx_train));
  r.attn_factor = file.find_float(scaling + "attn_factor", 1e-3, 1e3).value_or(1.0);
  r.beta_fast = file.find_float(scaling + "yarn_beta_fast", 1e-3, 1e6).value_or(32.0);
  r.beta_slow = file.find_float(scaling + "yarn_beta_slow", 1e-3, 1e6).value_or(1.0);
  return r;
}

std::vector<int64_t> read_rope_sections(const Gguf& file, const TextParams& p) {
  const std::string key = p.arch + ".rope.dimension_sections";
  auto sections = file.find_ints(key, 3, 4, 0, p.n_rot / 2);
  if (!sections) fail(ErrorCode::file_format, file.path(), ": key '", key, "' is missing, expected 3 or 4 integers");
  const int64_t sum = (*sections)[0] + (*sections)[1] + (*sections)[2];
  if (sum != p.n_rot / 2 || (sections->size() == 4 && (*sections)[3] != 0))
    fail(ErrorCode::file_format, file.path(), ": key '", key, "': found sections that sum to ", sum,
         ", expected half the rotated dimensions, ", p.n_rot / 2, ", and a fourth of 0");
  sections->resize(3);
  return *sections;
}

Buffer<float> load_rope_factors(const Gguf& file, const TextParams& p, Backend& backend) {
  if (!file.find_tensor("rope_freqs.weight")) return {};
  const Buffer<float> loaded = backend.load_floats(file.tensor("rope_freqs.weight", {p.n_rot / 2}));
  Buffer<float> factors(loaded.size());
  backend.copy_out(factors.data(), loaded.data(), loaded.bytes());
  for (size_t i = 0; i < factors.size(); ++i)
    if (!(factors[i] > 0) || !std::isfinite(factors[i]))
      fail(ErrorCode::file_format, file.path(), ": tensor 'rope_freqs.weight': found ", factors[i], " at ", i,
           ", expected numbers above 0");
  return factors;
}

std::vector<Axis> mrope_axes(std::span<const int64_t> sections) {
  std::vector<Axis> axes;
  for (size_t a = 0; a < 3; ++a) axes.insert(axes.end(), static_cast<size_t>(sections[a]), static_cast<Axis>(a));
  return axes;
}

std::vector<Axis> interleaved_mrope_axes(std::span<const int64_t> sections) {
  std::vector<Axis> axes(static_cast<size_t>(sections[0] + sections[1] + sections[2]), Axis::t);
  for (size_t i = 0; i < axes.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    if (at % 3 == 1 && at < 3 * sections[1]) axes[i] = Axis::h;
    if (at % 3 == 2 && at < 3 * sections[2]) axes[i] = Axis::w;
  }
  return axes;
}

RopeTable::RopeTable(const RopeParams& p, std::span<const float> divisors, std::vector<Axis> axes)
    : frequency_(static_cast<size_t>(p.n_rot / 2)), axes_(std::move(axes)), magnitude_(p.attn_factor) {
  for (size_t i = 0; i < frequency_.size(); ++i) {
    frequency_[i] = std::pow(p.base, -2.0 * static_cast<double>(i) / p.n_rot);
    if (!divisors.empty()) frequency_[i] /= static_cast<double>(divisors[i]);
  }
  if (p.yarn) {
    apply_yarn(frequency_, p);
    if (p.factor > 1) magnitude_ *= 0.1 * std::log(p.factor) + 1;
  } else {
    for (double& f : frequency_) f /= p.factor;
  }
}

void RopeTable::rows(Mat cs, std::span<const Position> pos) const {
  const size_t half = frequency_.size();
  for (int64_t it = 0; it < cs.rows; ++it) {
    const Position& at = pos[static_cast<size_t>(it)];
    float* row = cs.row(it);
    for (size_t i = 0; i < half; ++i) {
      const Axis axis = axes_.empty() ? Axis::t : axes_[i];
      const double angle = (axis == Axis::t ? at.t : axis == Axis::h ? at.h : at.w) * frequency_[i];
      row[i] = static_cast<float>(std::cos(angle) * magnitude_);
      row[half + i] = static_cast<float>(std::sin(angle) * magnitude_);
    }
  }
}

}  // namespace foveal
