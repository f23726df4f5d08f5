// plan against what a run takes: every allocation of the process is counted, and the KV store's own pages. Weights,
// encoder, KV, prefill peak and total, on every fixture and on the model that FOVEAL_SMOLLM2 names: within 5 %.
#include <malloc.h>

#include <atomic>
#include <cstdlib>

#include "engine/engine.h"
#include "tests/check.h"

#if defined(__SANITIZE_ADDRESS__) || !defined(__GLIBC__)
TEST(allocations_are_counted_by_replacing_malloc) {
  std::puts("skipped: malloc is someone else's here");
}
#else

namespace {
std::atomic<int64_t> live{0}, peak{0};

void add(void* p) {
  if (!p) return;
  const int64_t now = live += static_cast<int64_t>(malloc_usable_size(p));
  int64_t most = peak.load();
  while (now > most && !peak.compare_exchange_weak(most, now)) {
  }
}
}  // namespace

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void __libc_free(void*);

void* malloc(size_t n) {
  void* p = __libc_malloc(n);
  add(p);
  return p;
}
void* calloc(size_t n, size_t size) {
  void* p = __libc_calloc(n, size);
  add(p);
  return p;
}
void* realloc(void* old, size_t n) {
  if (old) live -= static_cast<int64_t>(malloc_usable_size(old));
  void* p = __libc_realloc(old, n);
  add(p);
  return p;
}
void* aligned_alloc(size_t alignment, size_t n) {
  void* p = __libc_memalign(alignment, n);
  add(p);
  return p;
}
void free(void* p) {
  if (p) live -= static_cast<int64_t>(malloc_usable_size(p));
  __libc_free(p);
}
}

using namespace foveal;

namespace {

// spare: bytes that don't count, of buffers that an instruction set has for each worker, a few pages large.
void near(const std::string& what, uint64_t planned, int64_t measured, int64_t spare = 0) {
  const int64_t more = static_cast<int64_t>(planned) - measured;
  const double off = static_cast<double>(more) / static_cast<double>(measured);
  std::printf("  %-40s planned %11lld, measured %11lld: %+.2f %%\n", what.c_str(), static_cast<long long>(planned),
              static_cast<long long>(measured), 100 * off);
  if (std::abs(more) > spare) CHECK_NEAR(off, 0, 0.05);
}

struct Run {
  std::string model, mmproj;
  int width = 0, height = 0;
  int64_t text = 400, reply = 8;
  KvOptions kv;
};

// Two turns, in each a picture (where there is an encoder), text and an answer.
PlanQuery query_of(const Run& r) {
  PlanQuery q;
  q.model = r.model;
  q.mmproj = r.mmproj;
  if (r.width > 0) q.images = {{r.width, r.height, 2}};
  q.turns = 2;
  q.text_tokens = r.text;
  q.reply_tokens = r.reply;
  q.kv = r.kv;
  q.threads = 2;
  return q;
}

void compare(const std::string& name, const Run& r) {
  const PlanQuery q = query_of(r);
  const MemoryPlan plan = plan_memory(q);
  const int64_t empty = live;
  load_tokenizer(r.model);
  int64_t vocabulary = live;
  {
    const auto tokenizer = load_tokenizer(r.model);
    vocabulary = live - vocabulary;
  }
  const int64_t start = live;
  CHECK(start - empty < 100000);
  ModelOptions options;
  options.mmproj = r.mmproj;
  options.threads = q.threads;
  const auto model = Model::load(r.model, options);
  near(name + " weights", plan.text_weights + plan.vision_weights, live - start - vocabulary);

  // Pictures differ, so that each is encoded; those of the caller are not the engine's.
  std::vector<std::vector<uint8_t> > pictures(r.width > 0 ? 3 : 0);
  for (size_t i = 0; i < pictures.size(); ++i)
    pictures[i].assign(static_cast<size_t>(3 * r.width * r.height), static_cast<uint8_t>(60 * i));
  const auto view = [&](size_t i) { return ImageView{pictures[i].data(), r.width, r.height, 3 * r.width}; };
  if (r.width > 0) {
    const int64_t before = live;
    peak = before;
    model->encode_image(view(2));
    near(name + " encoder scratch", plan.encoder_scratch, peak - before, q.threads * (48 << 10));
  }
  int64_t given = 0;
  for (const auto& p : pictures) given += static_cast<int64_t>(p.size());
  const auto session = model->session(r.kv);
  int64_t most = 0;
  uint64_t planned_kv_peak = 0;
  int64_t seen = 0, held = 0;  // rows at the end of the last turn; of its longest head
  const ModelInfo& info = model->info();
  for (size_t t = 0; t < plan.turns.size(); ++t) {
    peak = live.load();
    std::vector<Part> parts;
    if (r.width > 0) parts.push_back(view(t));
    parts.push_back(std::vector<int32_t>(static_cast<size_t>(r.text), 5));
    session->prefill(parts);
    planned_kv_peak = std::max(planned_kv_peak, plan.turns[t].prefill_peak);
    near(name + " KV peak", planned_kv_peak, static_cast<int64_t>(session->kv_peak_bytes()));
    // The store's peak beside the allocations': one layer in float32 is in both.
    int64_t longest = 0;
    for (int il = 0; il < info.n_layer; ++il)
      for (const auto& head : session->kept(il)) longest = std::max(longest, static_cast<int64_t>(head.size()));
    const int64_t rows = std::min(seen, t == 0 ? 0 : held) + (static_cast<int64_t>(session->tokens().size()) - seen);
    const int64_t layer = 8 * rows * info.head_dim * info.n_head_kv;
    most = std::max(most, peak - start + static_cast<int64_t>(session->kv_peak_bytes()) - layer);
    held = longest + r.reply;
    seen = static_cast<int64_t>(session->tokens().size()) + r.reply;
    for (int64_t i = 0; i < r.reply; ++i) session->step(5);
    near(name + " KV", plan.turns[t].kv_bytes, static_cast<int64_t>(session->kv_bytes()));
  }
  near(name + " total", plan.total, most - vocabulary - given);
}

KvOptions budget(int rows) {
  KvOptions kv;
  if (rows > 0) kv.budget = {Budget::rows, static_cast<double>(rows)};
  kv.policy = Policy::snapkv;
  return kv;
}

}  // namespace

TEST(fixtures) {
  for (const char* family :
       {"qwen2vl", "qwen25vl", "qwen3vl", "gemma3", "internvl3", "llava15", "llavanext", "smolvlm"})
    for (const int rows : {0, 200}) {
      const std::string folder = cat(FOVEAL_TEST_DATA "/", family);
      compare(cat(family, rows > 0 ? " budget 200" : ""),
              {folder + "/model-f16.gguf", folder + "/mmproj-f16.gguf", 500, 400, 400, 8, budget(rows)});
    }
  for (const char* family : {"text_llama", "text_qwen3", "text_gemma3_text"})
    compare(family, {cat(FOVEAL_TEST_DATA "/", family, "/model-f16.gguf"), "", 0, 0, 900, 8, budget(0)});
}

TEST(smollm2) {
  const char* file = std::getenv("FOVEAL_SMOLLM2");
  if (!file) {
    std::puts("  skipped: FOVEAL_SMOLLM2 names no file");
    return;
  }
  for (const int rows : {0, 256}) compare(cat("SmolLM2 budget ", rows), {file, "", 0, 0, 1500, 16, budget(rows)});
}
#endif
