// Where the picture encoder goes: to the GPU before any layer does, where it leaves room for one and isn't kept back.
#include "engine/engine.h"
#include "tests/check.h"
#include "tests/runtime/guarded_gpu.h"

using namespace foveal;
using guarded::settings;

namespace {

struct Loaded {
  std::shared_ptr<const Model> model;
  bool there;  // the encoder is on the GPU
};

Loaded load(bool offload, int gpu_layers = -1, const char* device = "auto") {
  const std::string folder = std::string(FOVEAL_TEST_DATA) + "/qwen2vl";
  ModelOptions o;
  o.mmproj = folder + "/mmproj-f16.gguf";
  o.device = device;
  o.gpu_layers = gpu_layers;
  o.mmproj_offload = offload;
  o.threads = 1;
  Loaded out{Model::load(folder + "/model-f16.gguf", o), false};
  out.there = out.model->info().backend.find("pictures and ") != std::string::npos;
  return out;
}

Image picture(int width, int height) {
  Image image;
  image.width = width;
  image.height = height;
  for (int i = 0; i < width * height * 3; ++i) image.rgb.push_back(static_cast<uint8_t>(i * i / 7 % 251));
  return image;
}

}  // namespace

TEST(with_the_layers_unless_kept_back) {
  CHECK(load(true).there);
  CHECK(load(true, 1).there);
  CHECK(load(true).model->info().placement.find(" free: picture encoder 2 MiB, weights ") != std::string::npos);
  CHECK(!load(false).there);
  CHECK(load(false).model->info().placement.find("picture") == std::string::npos);
  CHECK(!load(true, 0).there);
  CHECK(!load(true, -1, "cpu").there);
  CHECK_EQ(settings.used, uint64_t{0});
}

// As the card's memory shrinks: first fewer layers, then none beside the encoder, then nothing.
TEST(layers_before_pictures_when_both_dont_fit) {
  const uint64_t all = settings.total;
  bool was_there = true, was_beside = false;
  for (uint64_t kib = 256 << 10; kib > 120 << 10; kib -= 512) {
    settings.total = kib << 10;
    const Loaded l = load(true);
    const bool on_gpu = l.model->info().backend.rfind("guarded:0", 0) == 0;
    if (!was_there) CHECK(!l.there);
    if (on_gpu && !l.there) {
      was_beside = true;
      CHECK(l.model->info().placement.find("; pictures on the CPU: their encoder takes 2 MiB and ") !=
            std::string::npos);
    }
    was_there = l.there;
  }
  CHECK(!was_there);
  CHECK(was_beside);
  settings.total = all;
}

// Refused before any work, and what was read stays.
TEST(a_picture_too_large_for_the_card) {
  const auto model = load(true).model;
  const auto s = model->session({}, 512);
  s->prefill(std::vector<Part>{std::vector<int32_t>{20, 30, 40}});
  const Image image = picture(96, 64);
  const uint64_t all = settings.total;
  settings.total = settings.used + 1000;
  CHECK_THROWS(Error, "a picture of 96x64 pixels (6 rows) needs 1 MiB on guarded:0, found 0 MiB free",
               model->encode_image(image.view()));
  CHECK_THROWS(Error, "mmproj_offload False would fit", s->prefill(std::vector<Part>{image.view()}));
  settings.total = all;
  CHECK_EQ(s->tokens().size(), size_t{3});
  s->prefill(std::vector<Part>{image.view()});
  const ImageEmbedding there = model->encode_image(image.view()), here = load(false).model->encode_image(image.view());
  CHECK_EQ(static_cast<size_t>(s->tokens().size()), 3 + 2 + static_cast<size_t>(there.rows.rows()));
  CHECK(std::memcmp(there.rows.view().data, here.rows.view().data, here.rows.bytes()) == 0);
}

// The second one is refused at its start, with what the first one left; the first one goes on.
TEST(two_sessions_on_one_card) {
  const auto model = load(true).model;
  const auto first = model->session({}, 512);
  first->prefill(std::vector<Part>{std::vector<int32_t>(200, 20)});
  const uint64_t all = settings.total;
  settings.total = settings.used + (1 << 20);
  CHECK_THROWS(Error, "a session of 512 rows needs", model->session({}, 512));
  CHECK_THROWS(Error, "found 1 MiB free; a smaller n_ctx or kv budget", model->session({}, 512));
  first->step(30);
  settings.total = all;
  CHECK_EQ(first->tokens().size(), size_t{201});
  CHECK_EQ(model->session({}, 512)->tokens().size(), size_t{0});
}
