// Whole sessions on the CUDA backend: the CPU's numbers and the CPU's choice of rows, all layers or some on the GPU.
// The kernels are run by the shim or, with FOVEAL_REAL_GPU, by a card if there is one.
#include <unistd.h>

#include <algorithm>

#include "engine/engine.h"
#include "tests/check.h"

using namespace foveal;

namespace {

std::string data(const std::string& name) {
  return std::string(FOVEAL_TEST_DATA) + "/" + name;
}

std::shared_ptr<const Model> load(const std::string& file, const char* device, int gpu_layers) {
  ModelOptions o;
  const std::string mmproj = data(file.substr(0, file.find('/')) + "/mmproj-f16.gguf");
  if (access(mmproj.c_str(), R_OK) == 0) o.mmproj = mmproj;
  o.device = device;
  o.gpu_layers = gpu_layers;
  o.threads = 1;
  return Model::load(data(file), o);
}

std::vector<int32_t> ids(int n, int from) {
  std::vector<int32_t> out;
  for (int i = 0; i < n; ++i) out.push_back((from + i * 7) % 200 + 10);
  return out;
}

struct Seen {
  std::vector<std::vector<float>> logits;
  std::vector<std::vector<std::vector<int32_t>>> kept;
};

// A prompt of `rows` rows and perhaps a picture, steps past the slack, a second turn.
Seen play(const Model& model, int64_t chunk, int rows) {
  KvOptions kv;
  kv.budget = {Budget::rows, 20};
  kv.window = kv.slack = 4;
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

bool no_gpu() {
  const std::string first = list_devices()[0];
  const bool none = first.rfind("no GPU", 0) == 0;
  if (none) std::printf("skipped: %s\n", first.c_str());
  return none;
}

double worst(const Seen& a, const Seen& b) {  // largest difference as a share of the largest logit
  double most = 0, largest = 0;
  for (size_t i = 0; i < a.logits.size(); ++i)
    for (size_t j = 0; j < a.logits[i].size(); ++j) {
      largest = std::max(largest, std::fabs(static_cast<double>(b.logits[i][j])));
      const double d = std::fabs(static_cast<double>(a.logits[i][j]) - static_cast<double>(b.logits[i][j]));
      most = std::isfinite(d) ? std::max(most, d) : 1e30;
    }
  return most / largest;
}

double shared(const Seen& a, const Seen& b) {  // share of the kept rows that are the same
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

}  // namespace

// A budget of 20 rows over prompt, steps and a second turn. What differs from the CPU is the order of sums, fp16 pairs
// on the tensor cores, and which way a row of the cache falls into F16 (5e-4 of a number).
TEST(the_cpus_numbers_and_rows) {
  if (no_gpu()) return;
  const Seen want = play(*load("qwen2vl/model-f16.gguf", "cpu", -1), 8, 24);
  for (const int layers : {-1, 1}) {
    const auto model = load("qwen2vl/model-f16.gguf", "auto", layers);
    CHECK(model->info().backend.find(" layers; cpu") != std::string::npos);
    const Seen got = play(*model, 8, 24);
    std::printf("%d layers: logits within %.1e, %.2f %% of the kept rows\n", layers, worst(got, want),
                100 * shared(got, want));
    CHECK(worst(got, want) < 5e-3);
    CHECK(shared(got, want) > 0.95);
  }
}
