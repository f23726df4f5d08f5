// Whole sessions on the CUDA backend: the CPU's numbers and the CPU's choice of rows, all layers or some on the GPU.
// The kernels are run by the shim or, with FOVEAL_REAL_GPU, by a card if there is one.
#include "tests/cuda/backend/play.h"

using namespace foveal;
using namespace sessions;

// A budget of 20 rows over prompt, steps and a second turn. What differs from the CPU is the order of sums, fp16 pairs
// on the tensor cores, and which way a row of the cache falls into F16 (5e-4 of a number).
TEST(the_cpus_numbers_and_rows) {
  if (no_gpu()) return;
  const Seen want = play(*load("qwen2vl/model-f16.gguf", "cpu", -1), budget(20), 8, 24);
  for (const int layers : {-1, 1}) {
    const auto model = load("qwen2vl/model-f16.gguf", "auto", layers);
    CHECK(model->info().backend.find(" layers; cpu") != std::string::npos);
    const Seen got = play(*model, budget(20), 8, 24);
    std::printf("%d layers: logits within %.1e, %.2f %% of the kept rows\n", layers, worst(got, want),
                100 * shared(got, want));
    CHECK(worst(got, want) < 5e-3);
    CHECK(shared(got, want) > 0.95);
  }
}

// Rows in blocks of eight or four bits, held rotated: a number may fall to the other side of a step. With a budget the
// choice of rows alone is compared: where it differs by one, so may the logits.
TEST(quantised_rows) {
  if (no_gpu()) return;
  const auto cpu = load("qwen2vl/model-f16.gguf", "cpu", -1), gpu = load("qwen2vl/model-f16.gguf", "auto", -1);
  for (const KvType type : {KvType::Q8_0, KvType::Q4_0}) {
    const auto both = [&](KvOptions kv) {
      kv.dtype = type;
      return std::pair(play(*gpu, kv, 8, 24), play(*cpu, kv, 8, 24));
    };
    const auto all = both({}), some = both(budget(20));
    std::printf("%s: logits within %.1e, with a budget %.1e and %.2f %% of the kept rows\n",
                type == KvType::Q8_0 ? "q8_0" : "q4_0", worst(all.first, all.second), worst(some.first, some.second),
                100 * shared(some.first, some.second));
    CHECK(worst(all.first, all.second) < (type == KvType::Q8_0 ? 5e-3 : 3e-2));
    CHECK(shared(some.first, some.second) > 0.95);
  }
}
