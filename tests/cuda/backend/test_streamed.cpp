// Layers that the GPU prefills for the CPU, their weights passing through it: the numbers and rows of the CPU's
// sessions, with a budget and without.
#include "tests/cuda/backend/play.h"

using namespace foveal;
using namespace sessions;

namespace {

void check_near(const char* what, const Seen& got, const Seen& want) {
  std::printf("%s: logits within %.1e, %.2f %% of the kept rows\n", what, worst(got, want), 100 * shared(got, want));
  CHECK(worst(got, want) < 5e-3);
  CHECK(shared(got, want) > 0.95);
}

// `layers` stay on the GPU, the others pass through it.
void check_family(const std::string& file, const KvOptions& kv, int layers) {
  if (no_gpu()) return;
  const Seen cpu = play(*load(file, "cpu", -1), kv, 8, 12);
  const auto model = load(file, "cuda", layers, "on");
  CHECK(model->info().placement.find("on the GPU in every prompt") != std::string::npos);
  check_near(file.c_str(), play(*model, kv, 8, 12), cpu);
}

}  // namespace

TEST(a_dense_model) {
  check_family("text_llama/model-f16.gguf", {}, 1);
}
TEST(a_dense_model_with_a_budget) {
  check_family("text_llama/model-f16.gguf", budget(10), 0);
}
TEST(positions_of_three_numbers) {
  check_family("qwen2vl/model-f16.gguf", {}, 0);
}
TEST(positions_of_three_numbers_with_a_budget) {
  check_family("qwen2vl/model-f16.gguf", budget(10), 1);
}
TEST(a_sliding_window) {
  check_family("gemma3/model-f16.gguf", {}, 0);
}
TEST(a_sliding_window_with_a_budget) {
  check_family("gemma3/model-f16.gguf", budget(10), 0);
}
