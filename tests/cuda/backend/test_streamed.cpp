// Layers that the GPU prefills for the CPU, their weights passing through it: the numbers and rows of the CPU's
// sessions and of those with all layers on the GPU, with a budget and without.
#include "tests/cuda/backend/play.h"

using namespace foveal;
using namespace sessions;

namespace {

void check_near(const std::string& what, const Seen& got, const Seen& want, double most) {
  std::printf("%s: logits within %.1e, %.2f %% of the kept rows\n", what.c_str(), worst(got, want),
              100 * shared(got, want));
  CHECK(worst(got, want) < most);
  CHECK(shared(got, want) > 0.95);
}

// All layers pass through the GPU, or all but one.
void check_family(const std::string& file, const KvOptions& kv) {
  if (no_gpu()) return;
  const auto all = load(file, "cuda", -1);
  for (const int64_t chunk : {8, 32}) {  // products of few rows, and of many
    const Seen cpu = play(*load(file, "cpu", -1), kv, chunk, 20), gpu = play(*all, kv, chunk, 20);
    for (const int layers : {0, 1}) {
      if (layers == 1 && chunk > 8) continue;  // the shim's patience
      const auto model = load(file, "cuda", layers, "on");
      CHECK(model->info().placement.find("on the GPU in every prompt") != std::string::npos);
      const Seen got = play(*model, kv, chunk, 20);
      check_near(cat(file, ", ", layers, " layers stay, against the CPU"), got, cpu, 5e-3);
      check_near("against all on the GPU", got, gpu, 1e-3);
    }
  }
}

}  // namespace

TEST(a_dense_model) {
  check_family("text_llama/model-f16.gguf", {});
}
TEST(a_dense_model_with_a_budget) {
  check_family("text_llama/model-f16.gguf", budget(14));
}
TEST(positions_of_three_numbers) {
  check_family("qwen2vl/model-f16.gguf", {});
}
TEST(positions_of_three_numbers_with_a_budget) {
  check_family("qwen2vl/model-f16.gguf", budget(20));
}
TEST(a_sliding_window) {
  check_family("gemma3/model-f16.gguf", {});
}
TEST(a_sliding_window_with_a_budget) {
  check_family("gemma3/model-f16.gguf", budget(20));
}
