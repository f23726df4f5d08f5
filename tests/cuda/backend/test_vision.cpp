// The picture encoder of every family on the CUDA backend: the CPU's rows.
// The kernels are run by the shim or, with FOVEAL_REAL_GPU, by a card if there is one.
#include <algorithm>

#include "engine/engine.h"
#include "tests/check.h"
#ifndef FOVEAL_REAL_GPU
#include "engine/runtime/vision_room.h"
#include "tests/runtime/guarded_memory.h"
#endif

using namespace foveal;

namespace {

std::shared_ptr<const Model> load(const std::string& family, bool offload) {
  const std::string folder = std::string(FOVEAL_TEST_DATA) + "/" + family;
  ModelOptions o;
  o.mmproj = folder + "/mmproj-f16.gguf";
  o.device = offload ? "auto" : "cpu";
  o.threads = 1;
  return Model::load(folder + "/model-f16.gguf", o);
}

Image picture(int width, int height) {
  Image image;
  image.width = width;
  image.height = height;
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c) image.rgb.push_back(static_cast<uint8_t>((x * (c + 3) + y * 5 + x * y / 7) % 256));
  return image;
}

// Norm of the difference over the norm, and the largest difference over the largest number.
std::pair<double, double> distance(ConstMat a, ConstMat b) {
  double difference = 0, norm = 0, most = 0, largest = 0;
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t c = 0; c < a.cols; ++c) {
      const double d = static_cast<double>(a.row(i)[c]) - static_cast<double>(b.row(i)[c]), x = b.row(i)[c];
      if (!std::isfinite(d)) return {1e30, 1e30};
      difference += d * d;
      norm += x * x;
      most = std::max(most, std::fabs(d));
      largest = std::max(largest, std::fabs(x));
    }
  return {std::sqrt(difference / norm), most / largest};
}

}  // namespace

// What differs is the order of sums and the activations' rounding to fp16 (2^-11) before products on tensor cores.
TEST(every_familys_encoder) {
  const std::string first = list_devices()[0];
  if (first.rfind("no GPU", 0) == 0) return void(std::printf("skipped: %s\n", first.c_str()));
  for (const char* family :
       {"qwen2vl", "qwen25vl", "qwen3vl", "llava15", "llavanext", "internvl3", "smolvlm", "gemma3"}) {
    const Image image = picture(72, 56);
    const auto gpu = load(family, true);
    CHECK(gpu->info().backend.find("pictures and ") != std::string::npos);
    CHECK(gpu->info().placement.find("picture encoder ") != std::string::npos);
    const ImageEmbedding want = load(family, false)->encode_image(image.view()), got = gpu->encode_image(image.view());
    CHECK_EQ(got.rows.rows(), want.rows.rows());
    CHECK_EQ(got.rows.cols(), want.rows.cols());
    const auto [relative, largest] = distance(got.rows.view(), want.rows.view());
    std::printf("%s: %ld rows, within %.1e, the largest difference %.1e of the largest number\n", family,
                static_cast<long>(got.rows.rows()), relative, largest);
    CHECK(relative < 8e-4);
    CHECK(largest < 8e-4);
  }
}

#ifndef FOVEAL_REAL_GPU
// Weights, scratch and staged inputs are what the headers said, before anything was loaded.
TEST(room_is_what_was_counted) {
  using guarded::settings;
  const auto rounded = [](uint64_t bytes) { return bytes + (96u << 10); };  // 256 bytes a tensor
  for (const char* family : {"qwen3vl", "llava15"}) {
    const std::string folder = std::string(FOVEAL_TEST_DATA) + "/" + family;
    const auto text = Gguf::open(folder + "/model-f16.gguf");
    const VisionRoom room = vision_room(Gguf::open(folder + "/mmproj-f16.gguf"), *text, {}, 100);
    ModelOptions o;
    o.threads = 1;
    uint64_t used[2];
    for (const bool pictures : {false, true}) {
      if (pictures) o.mmproj = folder + "/mmproj-f16.gguf";
      const auto model = Model::load(folder + "/model-f16.gguf", o);
      used[pictures] = settings.used;
      if (!pictures) continue;
      settings.peak = settings.used;
      model->encode_image(picture(100, 100).view());
      const uint64_t most = settings.peak - used[1];
      CHECK(most <= rounded(room.scratch + room.staged));
      CHECK(2 * most >= room.scratch);
    }
    CHECK(used[1] - used[0] <= rounded(room.weights));
    CHECK(used[1] - used[0] >= room.weights);
  }
}
#endif
