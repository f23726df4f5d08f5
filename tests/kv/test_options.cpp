// Budgets from text, names, and the check of the options: messages name the numbers and the least that works.
#include "engine/kv/options.h"

#include "engine/core/error.h"
#include "tests/check.h"

using namespace foveal;

TEST(budgets_from_text) {
  const struct {
    const char* text;
    Budget::Kind kind;
    double value;
  } cases[] = {
      {"none", Budget::everything, 0}, {"auto", Budget::automatic, 0},         {"256", Budget::rows, 256},
      {"25%", Budget::percent, 25},    {"12.5%", Budget::percent, 12.5},       {"100%", Budget::percent, 100},
      {"64KiB", Budget::bytes, 65536}, {"256MiB", Budget::bytes, 268435456.0}, {"1.5GiB", Budget::bytes, 1610612736.0},
  };
  for (const auto& c : cases) {
    const Budget b = parse_budget(c.text);
    CHECK_EQ(b.kind, c.kind);
    CHECK_EQ(b.value, c.value);
  }
}

TEST(bad_budgets_say_what_was_found) {
  for (const char* text : {"", " 256", "256 ", "-1", "0", "0%", "101%", "1.5", "abc", "256MB", "1e3", "nan", "inf", "%",
                           "99999999999", "99999999999999GiB", "0x10", "MiB"})
    CHECK_THROWS(Error, "kv budget: found '", parse_budget(text));
  CHECK_THROWS(Error, "256MiB", parse_budget("256MB"));
  CHECK_EQ(parse_budget("256").value, 256);
}

TEST(names_there_and_back) {
  for (const char* name : {"snapkv", "pyramidkv", "adakv", "sparsemm", "streaming", "random"})
    CHECK_EQ(std::string(policy_name(policy_from_name(name))), name);
  for (const char* name : {"none", "vnorm", "keydiff", "fixed", "mixkv", "sharp"})
    CHECK_EQ(std::string(mix_name(mix_from_name(name))), name);
  CHECK_THROWS(Error, "snapkv, pyramidkv, adakv, sparsemm, streaming, random", policy_from_name("SnapKV"));
  CHECK_THROWS(Error, "none, vnorm, keydiff, fixed, mixkv, sharp", mix_from_name(""));
  CHECK_THROWS(Error, "prompt, image", scope_from_name("text"));
  CHECK_THROWS(Error, "stop, evict, error", on_full_from_name("go"));
  CHECK_THROWS(Error, "f16, f32, q8_0, q4_0", kv_type_from_name("bf16"));
}

namespace {
KvOptions with_rows(double rows) {
  KvOptions o;
  o.budget = {Budget::rows, rows};
  return o;
}
}  // namespace

TEST(options_are_checked) {
  check_kv_options({});
  check_kv_options(with_rows(33));
  check_kv_options(with_rows(1e9));  // above any prompt: keeps everything
  CHECK_THROWS(Error, "found 32 rows per head, expected at least 33 (window 32 + sinks 0 + 1)",
               check_kv_options(with_rows(32)));
  KvOptions o = with_rows(40);
  o.sinks = 8;
  CHECK_THROWS(Error, "expected at least 41 (window 32 + sinks 8 + 1)", check_kv_options(o));
  o = with_rows(256);
  o.window = 0;
  CHECK_THROWS(Error, "kv window: found 0, expected 1 to", check_kv_options(o));
  o.window = -3;
  CHECK_THROWS(Error, "kv window: found -3", check_kv_options(o));
  o = with_rows(256);
  o.sinks = -1;
  CHECK_THROWS(Error, "kv sinks: found -1", check_kv_options(o));
  o = with_rows(256);
  o.slack = -1;
  CHECK_THROWS(Error, "kv slack: found -1", check_kv_options(o));
  o = with_rows(256);
  o.policy = Policy::sparsemm;
  CHECK_THROWS(Error, "needs a table of visual-head scores", check_kv_options(o));
  o = {};
  o.on_full = OnFull::evict;
  CHECK_THROWS(Error, "needs a budget", check_kv_options(o));
  for (const double percent : {0.0, -5.0, 100.5, std::nan("")}) {
    o = {};
    o.budget = {Budget::percent, percent};
    CHECK_THROWS(Error, "%, expected more than 0 and at most 100", check_kv_options(o));
  }
  for (const double rows : {0.0, -1.0, 64.5, std::nan(""), 1e12})
    CHECK_THROWS(Error, "rows per head, expected", check_kv_options(with_rows(rows)));
}
