// Streamed weights whenever the copies run: as late as they may or as early, from page-locked memory or not; and what
// is left of a session whose prompt a failing copy, a failing allocation or a cancel broke off: all of it.
#include "tests/cuda/backend/play.h"
#ifdef FOVEAL_REAL_GPU
TEST(order) {
  std::printf("skipped: a card keeps its own order\n");
}
#else
#include "tests/runtime/guarded_memory.h"

using namespace foveal;
using namespace sessions;
using guarded::settings;

namespace {

constexpr const char* kFile = "text_llama/model-f16.gguf";

// Two short turns; between them whatever `trouble` does with the session.
template <class Trouble>
std::vector<float> two_turns(const Model& model, Trouble&& trouble) {
  const auto s = model.session(budget(8), 64);
  s->prefill(std::vector<Part>{ids(9, 1)});
  trouble(*s);
  s->step(11);
  s->prefill(std::vector<Part>{ids(4, 3)});
  return {s->logits().begin(), s->logits().end()};
}

std::vector<float> quietly(const Model& model) {
  return two_turns(model, [](Session&) {});
}

}  // namespace

TEST(copies_late_or_early) {
  const std::vector<float> want = quietly(*load(kFile, "cuda", 1, "on"));
  for (const bool locked : {true, false}) {
    settings.eager = true;
    settings.locked = locked;
    CHECK(quietly(*load(kFile, "cuda", 1, "on")) == want);
  }
  settings.eager = false;
  CHECK(quietly(*load(kFile, "cuda", 1, "on")) == want);
  settings.locked = true;
}

TEST(a_prompt_that_breaks_off) {
  const auto model = load(kFile, "cuda", 0, "on");
  const std::vector<float> want = quietly(*model);
  const auto attempt = [](Session& s, ErrorCode code) {
    const std::vector<float> logits(s.logits().begin(), s.logits().end());
    const auto kept = s.kept(0);
    auto found = static_cast<ErrorCode>(-1);
    try {
      s.prefill(std::vector<Part>{ids(5, 2)});
    } catch (const Error& e) {
      found = e.code();
    }
    settings.fail_at = settings.fail_copy_at = -1;
    CHECK(found == code);
    CHECK_EQ(s.tokens().size(), size_t{9});
    CHECK(std::vector<float>(s.logits().begin(), s.logits().end()) == logits);
    CHECK(s.kept(0) == kept);
  };
  const auto trouble = [&](Session& s) {
    for (long at = 0; at < 28; at += 3) {
      settings.copies = 0;
      settings.fail_copy_at = at;
      attempt(s, ErrorCode::device);
    }
    for (long at = 0; at < 9; ++at) {
      settings.allocations = 0;
      settings.fail_at = at;
      attempt(s, ErrorCode::out_of_memory);
    }
    s.set_progress([&](const char*, float share) {
      if (share >= 0) s.cancel();  // while layer 0 is computed and layer 1 comes
    });
    attempt(s, ErrorCode::state);
    s.set_progress({});
  };
  const uint64_t used = settings.used;
  CHECK(two_turns(*model, trouble) == want);
  CHECK_EQ(settings.used, used);
}
#endif
