// What the tests of whole sessions on the CUDA backend share: a session played through, and how far two of them differ.
#pragma once

#include <unistd.h>

#include <algorithm>

#include "engine/engine.h"
#include "tests/check.h"

namespace sessions {

using namespace foveal;

inline std::string data(const std::string& name) {
  return std::string(FOVEAL_TEST_DATA) + "/" + name;
}

inline std::shared_ptr<const Model> load(const std::string& file, const char* device, int gpu_layers,
                                         const char* stream_prefill = "off") {
  ModelOptions o;
  const std::string mmproj = data(file.substr(0, file.find('/')) + "/mmproj-f16.gguf");
  if (access(mmproj.c_str(), R_OK) == 0) o.mmproj = mmproj;
  o.device = device;
  o.gpu_layers = gpu_layers;
  o.stream_prefill = stream_prefill;
  o.threads = 1;
  return Model::load(data(file), o);
}

inline std::vector<int32_t> ids(int n, int from) {
  std::vector<int32_t> out;
  for (int i = 0; i < n; ++i) out.push_back((from + i * 7) % 200 + 10);
  return out;
}

struct Seen {
  std::vector<std::vector<float>> logits;
  std::vector<std::vector<std::vector<int32_t>>> kept;
};

inline KvOptions budget(double rows) {
  KvOptions kv;
  kv.budget = {Budget::rows, rows};
  kv.window = kv.slack = 4;
  return kv;
}

// A prompt of `rows` rows and perhaps a picture, steps past the slack, a second turn.
inline Seen play(const Model& model, const KvOptions& kv, int64_t chunk, int rows) {
  const auto s = model.session(kv, 512);
  s->set_chunk_rows(chunk);
  std::vector<uint8_t> pixels(64 * 48 * 3);
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i * i / 7 % 251);
  std::vector<Part> parts = {ids(rows, 1)};
  if (model.has_vision()) parts.emplace_back(ImageView{pixels.data(), 64, 48, 64 * 3});
  Seen out;
  const auto note = [&] {
    out.logits.emplace_back(s->logits().begin(), s->logits().end());
    for (int il = 0; il < model.info().n_layer; ++il) out.kept.push_back(s->kept(il));
  };
  s->prefill(parts);
  note();
  for (int i = 0; i < 6; ++i) s->step(20 + 3 * i);
  note();
  s->prefill(std::vector<Part>{ids(6, 9)});
  note();
  return out;
}

inline bool no_gpu() {
  const std::string first = list_devices()[0];
  const bool none = first.rfind("no GPU", 0) == 0;
  if (none) std::printf("skipped: %s\n", first.c_str());
  return none;
}

inline double worst(const Seen& a, const Seen& b) {  // largest difference as a share of the largest logit
  double most = 0, largest = 0;
  for (size_t i = 0; i < a.logits.size(); ++i)
    for (size_t j = 0; j < a.logits[i].size(); ++j) {
      largest = std::max(largest, std::fabs(static_cast<double>(b.logits[i][j])));
      const double d = std::fabs(static_cast<double>(a.logits[i][j]) - static_cast<double>(b.logits[i][j]));
      most = std::isfinite(d) ? std::max(most, d) : 1e30;
    }
  return most / largest;
}

inline double shared(const Seen& a, const Seen& b) {  // share of the kept rows that are the same
  size_t same = 0, all = 0;
  for (size_t i = 0; i < a.kept.size(); ++i)
    for (size_t ih = 0; ih < a.kept[i].size(); ++ih) {
      std::vector<int32_t> both;
      std::set_intersection(a.kept[i][ih].begin(), a.kept[i][ih].end(), b.kept[i][ih].begin(), b.kept[i][ih].end(),
                            std::back_inserter(both));
      same += both.size();
      all += b.kept[i][ih].size();
    }
  return static_cast<double>(same) / static_cast<double>(all);
}

}  // namespace sessions
