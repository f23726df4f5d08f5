// Layers on a GPU: the same bits as on the CPU wherever the layers are, for every family, with eviction and all that a
// session can do; nothing of the GPU's memory is followed on the host; what doesn't fit is refused before any work.
#include <unistd.h>

#include "engine/engine.h"
#include "tests/check.h"
#include "tests/runtime/guarded_gpu.h"

using namespace foveal;
using guarded::settings;

namespace {

std::string data(const std::string& name) {
  return std::string(FOVEAL_TEST_DATA) + "/" + name;
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

std::shared_ptr<const Model> load(const std::string& family, const char* device, int gpu_layers,
                                  const char* stream_prefill = "off") {
  ModelOptions o;
  const std::string mmproj = data(family + "/mmproj-f16.gguf");
  if (access(mmproj.c_str(), R_OK) == 0) o.mmproj = mmproj;
  o.device = device;
  o.gpu_layers = gpu_layers;
  o.stream_prefill = stream_prefill;
  o.threads = 1;
  return Model::load(data(family + "/model-f16.gguf"), o);
}

std::vector<int32_t> ids(int n, int from) {
  std::vector<int32_t> out;
  for (int i = 0; i < n; ++i) out.push_back((from + i * 7) % 200 + 10);
  return out;
}

struct Trace {
  std::vector<float> logits;
  std::vector<std::vector<std::vector<int32_t>>> kept;
  std::vector<float> kv;
  bool operator==(const Trace& o) const {
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
    };
    return same(logits, o.logits) && kept == o.kept && same(kv, o.kv);
  }
};

void note(Trace& t, const Session& s, int n_layer) {
  t.logits.insert(t.logits.end(), s.logits().begin(), s.logits().end());
  for (int il = 0; il < n_layer; ++il) {
    t.kept.push_back(s.kept(il));
    const auto arrays = s.kv_arrays(il);
    for (const auto* side : {&arrays.first, &arrays.second})
      for (const Matrix& m : *side) t.kv.insert(t.kv.end(), m.view().data, m.view().data + m.rows() * m.cols());
  }
}

KvOptions budget(double rows) {
  KvOptions kv;
  kv.budget = {Budget::rows, rows};
  kv.window = 8;
  kv.slack = 8;
  return kv;
}

// A prompt with a picture, decoding past the slack, a second turn, a fork, a file, an eviction by hand, an undo.
Trace play(const Model& model, const KvOptions& kv) {
  const int n = model.info().n_layer;
  const auto s = model.session(kv, 2048);
  const Image image = picture(96, 64);
  std::vector<Part> parts = {ids(30, 1), ids(40, 5)};
  if (model.has_vision()) parts.insert(parts.begin() + 1, Part(image.view()));
  s->prefill(parts);
  Trace t;
  note(t, *s, n);
  for (int i = 0; i < 20; ++i) s->step(20 + i * 3);
  note(t, *s, n);
  s->prefill(std::vector<Part>{ids(25, 3)});
  note(t, *s, n);
  const auto twin = s->fork();
  s->step(33);
  twin->step(33);
  note(t, *s, n);
  note(t, *twin, n);
  const std::string path = "/tmp/foveal-placement-" + std::to_string(getpid());
  s->save(path);
  const auto again = model.load_session(path);
  unlink(path.c_str());
  again->step(44);
  note(t, *again, n);
  const KvOptions less = budget(24);
  const auto smaller = twin->fork(&less);
  twin->evict(less);
  Trace copied;
  smaller->step(44);
  note(copied, *smaller, n);
  twin->step(44);
  Trace evicted;
  note(evicted, *twin, n);
  CHECK(copied == evicted);
  note(t, *twin, n);
  s->undo();
  note(t, *s, n);
  return t;
}

}  // namespace

TEST(same_bits_wherever_the_layers_are) {
  for (const char* family : {"qwen2vl", "qwen25vl", "qwen3vl", "gemma3", "llava15", "internvl3", "smolvlm",
                             "text_llama", "text_mistral", "text_qwen3"}) {
    const auto cpu = load(family, "cpu", -1);
    const int n = cpu->info().n_layer;
    for (const KvOptions& kv : {KvOptions{}, budget(48)}) {
      const Trace want = play(*cpu, kv);
      for (const int layers : {-1, 1, n - 1}) {
        const auto gpu = load(family, "auto", layers);
        CHECK(gpu->info().backend.rfind("guarded:0, ", 0) == 0);
        const bool same = play(*gpu, kv) == want;
        if (!same) std::printf("%s, %d layers, budget %g\n", family, layers, kv.budget.value);
        CHECK(same);
      }
    }
    CHECK_EQ(settings.used, uint64_t{0});
  }
}

// Layers that the CPU decodes and the GPU prefills, their weights passing through two slots.
TEST(same_bits_streamed) {
  for (const char* family : {"qwen2vl", "qwen3vl", "gemma3", "llava15", "text_llama", "text_qwen3"}) {
    const auto cpu = load(family, "cpu", -1);
    const int n = cpu->info().n_layer;
    KvOptions quantised = budget(48);
    quantised.dtype = KvType::Q8_0;
    for (const KvOptions& kv : {KvOptions{}, budget(48), quantised}) {
      const bool blocks = kv.dtype == KvType::Q8_0;
      if (blocks && cpu->info().head_dim % 32 != 0) continue;
      const Trace want = play(*cpu, kv);
      for (const int layers : {0, 1, n - 1}) {
        if (blocks && layers > 0) continue;
        const auto gpu = load(family, "cuda", layers, "on");
        CHECK(gpu->info().placement.find(cat("the other ", n - layers, " on the CPU")) != std::string::npos);
        guarded::layers_streamed = 0;
        const bool same = play(*gpu, kv) == want;
        if (!same) std::printf("%s, %d layers, budget %g\n", family, layers, kv.budget.value);
        CHECK(same);
        CHECK(guarded::layers_streamed >= 2 * (n - layers));
      }
    }
    CHECK_EQ(settings.used, uint64_t{0});
  }
}

TEST(same_bits_with_quantised_rows) {
  for (const char* family : {"qwen2vl", "gemma3", "text_llama"}) {
    const auto cpu = load(family, "cpu", -1);
    for (const KvType type : {KvType::Q8_0, KvType::Q4_0}) {
      for (const KvOptions& base : {KvOptions{}, budget(48)}) {
        KvOptions kv = base;
        kv.dtype = type;
        const Trace want = play(*cpu, kv);
        for (const int layers : {-1, 1}) CHECK(play(*load(family, "auto", layers), kv) == want);
      }
    }
    CHECK_EQ(settings.used, uint64_t{0});
  }
}

TEST(hidden_states_cross_once) {
  const auto model = load("qwen2vl", "cuda", 1);
  const auto s = model->session({}, 512);
  settings.copies_in = settings.largest_in = 0;
  s->prefill(std::vector<Part>{ids(60, 1)});
  CHECK_EQ(settings.copies_in, 2L);  // hidden states, angles
  CHECK_EQ(settings.largest_in, 60L * model->info().n_embd * 4);
  settings.copies_in = 0;
  s->step(5);
  CHECK_EQ(settings.copies_in, 2L);
}

TEST(refused_before_any_work) {
  const auto n = load("qwen2vl", "cpu", -1)->info().n_layer;
  CHECK_THROWS(Error, cat("gpu_layers: found 99, the model has ", n, " layers").c_str(), load("qwen2vl", "auto", 99));
  CHECK_THROWS(Error, "gpu_layers: found 1 with device 'cpu'", load("qwen2vl", "cpu", 1));
  CHECK_THROWS(Error, "expected 'auto', 'cpu', 'cuda' or 'cuda:N'", load("qwen2vl", "rocm", -1));
  CHECK_THROWS(Error, "device 'cuda:3': found 1 GPUs", load("qwen2vl", "cuda:3", -1));
  CHECK_EQ(load("qwen2vl", "auto", 0)->info().backend.rfind("cpu", 0), size_t{0});

  settings.none_because = "no driver";
  CHECK_THROWS(Error, "device 'cuda': no driver; use device 'cpu' or 'auto'", load("qwen2vl", "cuda", -1));
  CHECK_THROWS(Error, "gpu_layers 2: no driver; use device 'cpu' and gpu_layers 0", load("qwen2vl", "auto", 2));
  const auto without = load("qwen2vl", "auto", -1);
  CHECK_EQ(without->info().placement, std::string());
  settings.none_because = "";

  settings.total = 120u << 20;  // below what is kept for the driver
  CHECK_THROWS(Error, "device 'cuda': not one layer fits (weights 1 MiB", load("qwen2vl", "cuda", -1));
  CHECK_THROWS(Error, "120 MiB of 120 MiB are free on Guarded", load("qwen2vl", "cuda", 1));
  CHECK(load("qwen2vl", "auto", -1)->info().placement.rfind("all layers on the CPU: not one fits", 0) == 0);
  settings.total = 256u << 20;

  const auto model = load("qwen2vl", "cuda", -1);
  CHECK(model->info().placement.rfind(cat(n, " of ", n, " layers on cuda:0 Guarded"), 0) == 0);
  CHECK_THROWS(Error, "a session of 4000000 rows needs", model->session({}, 4000000));
}

TEST(layers_pass_through_what_is_left) {
  const int n = load("qwen2vl", "cpu", -1)->info().n_layer;
  const auto note = [&](const char* device, int layers, const char* mode) {
    return load("qwen2vl", device, layers, mode)->info().placement;
  };
  CHECK_THROWS(Error, "stream_prefill: found 'maybe'", note("auto", -1, "maybe"));
  CHECK_THROWS(Error, "stream_prefill 'on' needs a GPU: found device 'cpu'", note("cpu", -1, "on"));
  settings.none_because = "no driver";
  CHECK_THROWS(Error, "stream_prefill 'on' needs a GPU: no driver", note("auto", -1, "on"));
  settings.none_because = "";
  CHECK_EQ(note("auto", 0, "auto"), std::string());  // no layer was asked for
  CHECK_EQ(note("cuda", 0, "off"), std::string());
  CHECK(note("cuda", 0, "auto").find(cat("the other ", n, " on the CPU, and on the GPU in prompts of ")) !=
        std::string::npos);
  CHECK(note("cuda", n, "on").find("on the CPU") == std::string::npos);
  int streamed = 0, most = -1;
  for (uint64_t kib = 128 << 10; most < n; kib += 512) {  // a card that grows: never fewer layers, at last all
    settings.total = kib << 10;
    const std::string text = note("auto", -1, "auto");
    const bool none = text.rfind("all layers on the CPU: not one fits", 0) == 0;
    const int layers = none ? 0 : std::stoi(text);
    CHECK(layers >= most);
    const bool passing = text.find(", two layers passing through ") != std::string::npos;
    CHECK_EQ(passing, !none && layers < n);
    streamed += passing;
    most = std::max(most, layers);
    if (kib > (256 << 10)) break;
  }
  CHECK_EQ(most, n);
  CHECK(streamed > 0);
  settings.total = 256u << 20;
  CHECK_EQ(settings.used, uint64_t{0});
}

// The same session with copies between the sides that fail, one after the other.
TEST(any_copy_may_fail_while_weights_stream) {
  const auto model = load("qwen2vl", "cuda", 1, "on");
  const auto run = [&](bool fail) {
    const auto s = model->session(budget(40), 512);
    s->prefill(std::vector<Part>{ids(60, 1)});
    s->step(7);
    long failures = 0;
    for (long at = 0; fail; at += 5) {
      settings.copies = 0;
      settings.fail_copy_at = at;
      bool failed = false;
      try {
        s->prefill(std::vector<Part>{ids(50, 2)});
      } catch (const Error& e) {
        failed = e.code() == ErrorCode::device;
      }
      settings.fail_copy_at = -1;
      if (!failed) break;
      ++failures;
      CHECK_EQ(s->tokens().size(), size_t{61});
    }
    if (fail) CHECK(failures > 3);
    if (!fail) s->prefill(std::vector<Part>{ids(50, 2)});
    s->step(9);
    return std::vector<float>(s->logits().begin(), s->logits().end());
  };
  CHECK(run(true) == run(false));
  const auto steps = [&](bool fail) {  // a token whose step fails isn't in, and may be given again
    const auto s = model->session(budget(40), 512);
    s->prefill(std::vector<Part>{ids(60, 1)});
    long failures = 0;
    for (int i = 0; i < 60; ++i)
      for (long at = 0, left = fail; left >= 0; ++at) {
        settings.copies = 0;
        settings.fail_copy_at = left > 0 ? at : -1;
        try {
          s->step(7 + i);
          left = -1;
        } catch (const Error& e) {
          CHECK(e.code() == ErrorCode::device);
          CHECK_EQ(s->tokens().size(), static_cast<size_t>(60 + i));
          ++failures;
        }
      }
    settings.fail_copy_at = -1;
    CHECK_EQ(failures > 60, fail);
    return std::vector<float>(s->logits().begin(), s->logits().end());
  };
  CHECK(steps(true) == steps(false));
}

// Whatever allocation fails, in loading, in a session's start, in a prefill or a step: an error, nothing leaks, the
// session goes on as it was, and so do the CPU's.
TEST(any_allocation_may_fail) {
  const auto cpu = load("qwen2vl", "cpu", -1);
  const auto beside = cpu->session(budget(40), 512);
  beside->prefill(std::vector<Part>{ids(60, 1)});
  const std::vector<float> before(beside->logits().begin(), beside->logits().end());

  settings.allocations = 0;
  load("qwen2vl", "cuda", -1);
  for (long at = 0, n = settings.allocations; at < n; at += 5) {
    settings.allocations = 0;
    settings.fail_at = at;
    CHECK_THROWS(Error, "guarded gpu: no room", load("qwen2vl", "cuda", -1));
    settings.fail_at = -1;
    CHECK_EQ(settings.used, uint64_t{0});
  }

  const auto model = load("qwen2vl", "cuda", -1);
  const uint64_t weights = settings.used;
  const auto run = [&](bool fail) {
    const auto s = model->session(budget(40), 512);
    s->prefill(std::vector<Part>{ids(60, 1)});
    s->step(7);
    if (fail) {
      long failures = 0;
      for (long at = 0; at < 400; at += 3) {
        settings.allocations = 0;
        settings.fail_at = at;
        bool failed = false;
        try {
          s->prefill(std::vector<Part>{ids(50, 2)});
        } catch (const Error& e) {
          failed = e.code() == ErrorCode::out_of_memory;
        }
        settings.fail_at = -1;
        if (!failed) break;
        ++failures;
        CHECK_EQ(s->tokens().size(), size_t{61});
      }
      CHECK(failures > 3);
    } else {
      s->prefill(std::vector<Part>{ids(50, 2)});
    }
    s->step(9);
    return std::vector<float>(s->logits().begin(), s->logits().end());
  };
  CHECK(run(true) == run(false));
  CHECK_EQ(settings.used, weights);

  CHECK(std::vector<float>(beside->logits().begin(), beside->logits().end()) == before);
  beside->step(9);
}
