// A turn whose prompt is cancelled or refused, also one that changes the past, leaves the session as it was.
#include "engine/engine.h"
#include "tests/check.h"

using namespace foveal;

namespace {

const std::string kWords = "the cat sat on a mat and looked at every one of the many small things that lay about ";

Message said(const char* role, const std::string& text, int picture = -1) {
  Message m{role, {}};
  if (picture >= 0) m.content.push_back({ContentPart::image, "", picture});
  m.content.push_back({ContentPart::text, text, -1});
  return m;
}

struct Picture {
  std::vector<uint8_t> rgb;
  explicit Picture(int seed) : rgb(56 * 56 * 3) {
    for (size_t i = 0; i < rgb.size(); ++i) rgb[i] = static_cast<uint8_t>(i * 31 + i / 97 * static_cast<size_t>(seed));
  }
  ImageView view() const { return {rgb.data(), 56, 56, 3 * 56}; }
};

std::string read_reply(Session& s) {
  std::string all, piece;
  while (s.next(piece)) all += piece;
  return all;
}

// All that a session shows.
struct State {
  std::vector<int32_t> tokens;
  std::vector<std::vector<std::vector<int32_t>>> kept;
  std::vector<float> logits, r, mass;
  int64_t pos;
  size_t bytes, pictures;
  bool chat;

  explicit State(const Session& s)
      : tokens(s.tokens()),
        logits(s.logits().begin(), s.logits().end()),
        r(s.kv_stats().r),
        mass(s.kv_stats().kept_mass),
        pos(s.pos()),
        bytes(s.kv_bytes()),
        pictures(s.images().size()),
        chat(s.is_chat()) {
    for (int il = 0; il < s.model()->info().n_layer; ++il) kept.push_back(s.kept(il));
  }
  bool operator==(const State& o) const {
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return a.size() == b.size() &&  // NaNs, too
             (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
    };
    return tokens == o.tokens && kept == o.kept && same(logits, o.logits) && same(r, o.r) && same(mass, o.mass) &&
           pos == o.pos && bytes == o.bytes && pictures == o.pictures && chat == o.chat;
  }
};

struct Talk {
  std::shared_ptr<const Model> model;
  std::unique_ptr<Session> session;
  std::vector<Message> messages;
  std::vector<Picture> pictures;
  GenerateOptions options;

  Talk(const std::string& family, const KvOptions& kv) {
    ModelOptions o;
    o.threads = 1;
    const bool sees = family.find("text_") == std::string::npos;
    const std::string folder = FOVEAL_TEST_DATA "/" + family;
    if (sees) o.mmproj = folder + "/mmproj-f16.gguf";
    model = Model::load(folder + "/model-f16.gguf", o);
    session = model->session(kv, 1000);
    session->set_chunk_rows(24);
    options.max_tokens = 6;
    if (sees) pictures.emplace_back(1);
    messages.push_back(said("user", kWords + kWords, sees ? 0 : -1));
    ask(messages);
    messages.push_back(said("user", "and " + kWords));
    ask(messages);
  }
  std::vector<ImageView> views() const {
    std::vector<ImageView> out;
    for (const Picture& p : pictures) out.push_back(p.view());
    return out;
  }
  std::string ask(std::vector<Message>& talk) {
    session->start_chat(talk, views(), options);
    talk.push_back(said("assistant", read_reply(*session)));
    return talk.back().content[0].value;
  }
};

// Cancels at the n-th report of progress. True when the call had ended before.
bool ends_before(Talk& t, const std::vector<Message>& messages, int n) {
  int seen = 0;
  t.session->set_progress([&](const char*, float) {
    if (++seen == n) t.session->cancel();
  });
  bool ended = true;
  try {
    t.session->start_chat(messages, t.views(), t.options);
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::state);
    ended = false;
  }
  t.session->set_progress({});
  return ended;
}

KvOptions small() {
  KvOptions kv;
  kv.budget = {Budget::rows, 40};
  kv.window = 16;
  kv.slack = 8;
  return kv;
}

void put_back_after_cancel(const std::string& family, const KvOptions& kv, bool new_picture) {
  Talk t(family, kv), never(family, kv);
  const State before(*t.session);
  std::vector<Message> other = t.messages;
  other[other.size() - 2] = said("user", "but " + kWords + kWords);  // the last question was another one
  if (new_picture) t.pictures[0] = Picture(2);
  other.push_back(said("user", "Why?"));
  int n = 1;
  while (!ends_before(t, other, n)) {
    CHECK(State(*t.session) == before);
    ++n;
    if (n > 100) break;
  }
  CHECK(n > 3 && n <= 100);
  read_reply(*t.session);
  if (new_picture) t.pictures[0] = Picture(1);

  // One that was put back goes on like one that was never disturbed.
  Talk again(family, kv);
  ends_before(again, other, 2);
  again.messages.push_back(said("user", "And then?"));
  never.messages.push_back(said("user", "And then?"));
  CHECK_EQ(again.ask(again.messages), never.ask(never.messages));
  CHECK_EQ(again.session->stats().cached_tokens, never.session->stats().cached_tokens);
  CHECK(again.session->stats().cached_tokens > 0);
  CHECK(State(*again.session) == State(*never.session));
}

}  // namespace

TEST(a_cut_past_comes_back_without_a_budget) {
  for (const char* family : {"qwen2vl", "text_llama", "text_gemma3_text"}) put_back_after_cancel(family, {}, false);
}

TEST(a_cut_past_comes_back_with_a_budget) {
  for (const char* family : {"qwen2vl", "text_llama", "text_gemma3_text"})
    put_back_after_cancel(family, small(), false);
}

TEST(another_picture) {
  put_back_after_cancel("qwen2vl", {}, true);
  put_back_after_cancel("qwen2vl", small(), true);
}

TEST(a_past_that_does_not_fit_changes_nothing) {
  for (const bool budget : {false, true}) {
    Talk t("text_llama", budget ? small() : KvOptions{});
    const State before(*t.session);
    std::vector<Message> other = t.messages;
    other[0] = said("user", "a much longer story: " + std::string(4000, 'x'));
    other.push_back(said("user", "Why?"));
    CHECK_THROWS(Error, "positions", t.session->start_chat(other, t.views(), t.options));
    CHECK(State(*t.session) == before);
  }
}

TEST(the_rows_of_a_cut_past_count_in_the_peak) {
  Talk t("text_llama", {});
  const size_t held = t.session->kv_bytes();
  std::vector<Message> other = t.messages;
  other[0] = said("user", "other " + kWords + kWords);
  other.push_back(said("user", "Why?"));
  t.session->start_chat(other, t.views(), t.options);
  CHECK(t.session->kv_peak_bytes() >= 2 * held);
}

TEST(a_reply_that_is_dropped_is_the_reply) {
  // A stream that isn't read to its end, and a fork or another turn in the middle of it.
  Talk t("text_llama", {});
  t.messages.push_back(said("user", "More?"));
  t.session->start_chat(t.messages, t.views(), t.options);
  std::string piece, seen;
  for (int i = 0; i < 3 && t.session->next(piece); ++i) seen += piece;
  const std::unique_ptr<Session> fork = t.session->fork();
  t.messages.push_back(said("assistant", seen));
  t.messages.push_back(said("user", "Go on."));
  const auto rows = static_cast<int64_t>(t.session->tokens().size());
  for (Session* s : {t.session.get(), fork.get()}) {
    s->start_chat(t.messages, t.views(), t.options);
    CHECK_EQ(s->stats().cached_tokens, rows);
    CHECK(!s->stats().started_over);
  }
  CHECK_EQ(read_reply(*t.session), read_reply(*fork));
}
