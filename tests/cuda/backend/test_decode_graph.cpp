// Decode as a captured graph: the bits of decode call by call, while KV rows move, grow and go and another session
// takes turns; captured seldom, replayed often.
#include "tests/cuda/backend/play.h"
#ifdef FOVEAL_REAL_GPU
TEST(decode_graph) {
  std::printf("skipped: a card can't be told to do without graphs\n");
}
#else
#include "engine/backend/cuda_step.h"
#include "tests/runtime/guarded_memory.h"

using namespace foveal;
using namespace sessions;
using guarded::settings;

namespace {

// Logits after every step: over the end of a block of KV rows, past evictions, after a second prompt, of a fork too.
std::vector<float> steps(const std::string& file, int layers, const KvOptions& kv, int rows, int n) {
  const auto model = load(file, "cuda", layers, "off");
  const auto s = model->session(kv, 256);
  s->set_chunk_rows(8);
  std::vector<float> out;
  const auto step = [&](Session& session, int32_t token) {
    session.step(token);
    out.insert(out.end(), session.logits().begin(), session.logits().end());
  };
  s->prefill(std::vector<Part>{ids(rows, 1)});
  for (int i = 0; i < n; ++i) step(*s, 20 + 3 * i);
  s->prefill(std::vector<Part>{ids(2, 5)});
  const auto twin = s->fork();
  for (int i = 0; i < 2; ++i) {
    step(*s, 30 + i);
    step(*twin, 40 + i);
  }
  return out;
}

void check_same(const std::string& file, int layers, const KvOptions& kv, int rows, int n, long most_captured) {
  settings.graphs = false;
  const std::vector<float> want = steps(file, layers, kv, rows, n);
  CHECK(settings.captured == 0);
  settings.graphs = true;
  settings.captured = settings.replayed = 0;
  CHECK(steps(file, layers, kv, rows, n) == want);
  std::printf("%s: %ld captured, %ld replayed\n", file.c_str(), settings.captured, settings.replayed);
  CHECK(settings.captured >= 1 && settings.captured <= most_captured);
  CHECK(settings.replayed >= n - 2);
  settings.captured = settings.replayed = 0;
}

}  // namespace

TEST(rows_that_move_to_a_larger_block) {
  check_same("text_llama/model-f16.gguf", 1, {}, 62, 4, 4);
}
TEST(rows_that_are_evicted) {
  check_same("qwen2vl/model-f16.gguf", 1, budget(10), 11, 5, 4);
}
TEST(parameters_that_dont_fit_have_room_in_the_next_step) {
  const auto device = open_cuda_device(0);
  CudaStep step(*device);
  const std::vector<uint8_t> host(20 << 10);
  const auto fit = [&](int n) {  // of n parameters
    step.begin();
    int found = 0;
    for (int i = 0; i < n; ++i) found += step.parameter(host.data(), host.size()) != nullptr;
    step.run_calls();
    return found;
  };
  CHECK_EQ(fit(2), 1);
  CHECK_EQ(fit(2), 2);
  CHECK_EQ(fit(9), 3);
  settings.allocations = 0;
  settings.fail_at = 0;  // goes on with what there is
  CHECK_EQ(fit(4), 3);
  settings.fail_at = -1;
}
TEST(a_sliding_window) {
  check_same("gemma3/model-f16.gguf", 1, {}, 8, 3, 4);
}
#endif
