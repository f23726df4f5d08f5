// A decode step allocates nothing: counted at operator new and by the C library's own books.
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "engine/engine.h"
#include "tests/check.h"

static std::atomic<int64_t> allocations{0};

void* operator new(std::size_t n) {
  ++allocations;
  if (void* p = std::malloc(n)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept {
  std::free(p);
}
void operator delete(void* p, std::size_t) noexcept {
  std::free(p);
}

using namespace foveal;

namespace {

size_t bytes_in_use() {
  const auto books = mallinfo2();
  return books.uordblks + books.hblkhd;
}

void steps_allocate_nothing(const std::string& file, const KvOptions& kv, int steps) {
  ModelOptions options;
  options.threads = 2;
  const auto model = Model::load(std::string(FOVEAL_TEST_DATA "/") + file, options);
  const auto session = model->session(kv, 512);
  std::vector<int32_t> prompt(40);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(i * 7 % 300);
  const Part part = prompt;
  session->prefill(std::span<const Part>(&part, 1));
  session->step(1);  // the backend's scratch has seen a decode step
  const int64_t before = allocations;
  const size_t held = bytes_in_use();
  for (int i = 0; i < steps; ++i) session->step(i % 300);
  CHECK_EQ(static_cast<int64_t>(allocations), before);
  CHECK_EQ(bytes_in_use(), held);
}

}  // namespace

TEST(with_the_full_cache) {
  for (const char* file : {"text_llama/model-q8_0.gguf", "qwen2vl/model-q4_k.gguf", "text_gemma3_text/model-f16.gguf"})
    steps_allocate_nothing(file, {}, 20);
}

TEST(between_evictions) {
  KvOptions kv;
  kv.budget = {Budget::rows, 48};
  steps_allocate_nothing("text_llama/model-f16.gguf", kv, kv.slack - 1);
}
