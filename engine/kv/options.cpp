// Budgets from text, and the check of all KV options that needs no model.
#include "engine/kv/options.h"

#include <charconv>
#include <cmath>
#include <string_view>

#include "engine/core/error.h"

namespace foveal {
namespace {

constexpr double kMaxRows = 2147483647.0;  // token indices are 32-bit
constexpr double kMaxBytes = 1ull << 60;
constexpr size_t kMaxRanges = 256;

[[noreturn]] void bad_budget(const std::string& text) {
  fail(ErrorCode::invalid_argument, "kv budget: found ", quoted(text),
       ", expected rows per head (\"256\"), a share of the prompt (\"25%\"), memory (\"256MiB\"; KiB, MiB, GiB), "
       "\"auto\" or \"none\"");
}

void check_range(const char* option, int value, int low, int high) {
  if (value < low || value > high)
    fail(ErrorCode::invalid_argument, "kv ", option, ": found ", value, ", expected ", low, " to ", high);
}

}  // namespace

Budget parse_budget(const std::string& text) {
  if (text == "none") return {};
  if (text == "auto") return {Budget::automatic, 0};
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
  if (error != std::errc() || !std::isfinite(value) || value <= 0) bad_budget(text);
  const std::string_view unit(stop, static_cast<size_t>(end - stop));
  const auto bytes = [&](double factor) {
    if (value * factor > kMaxBytes) bad_budget(text);
    return Budget{Budget::bytes, std::floor(value * factor)};
  };
  if (unit == "%" && value <= 100) return {Budget::percent, value};
  if (unit == "B") return bytes(1.0);
  if (unit == "KiB") return bytes(1024.0);
  if (unit == "MiB") return bytes(1024.0 * 1024);
  if (unit == "GiB") return bytes(1024.0 * 1024 * 1024);
  if (!unit.empty() || value != std::floor(value) || value > kMaxRows) bad_budget(text);
  return {Budget::rows, value};
}

std::string budget_text(const Budget& b) {
  double shown = b.value;
  const char* unit = "B";
  for (const char* next : {"KiB", "MiB", "GiB"}) {
    if (b.kind != Budget::bytes || std::fmod(shown, 1024) != 0) break;
    shown /= 1024;
    unit = next;
  }
  char number[64];
  const auto [end, error] = std::to_chars(number, number + sizeof number, shown, std::chars_format::fixed);
  const std::string value(number, error == std::errc() ? end : number);
  switch (b.kind) {
    case Budget::everything:
      return "none";
    case Budget::rows:
      return value;
    case Budget::percent:
      return value + "%";
    case Budget::bytes:
      return value + unit;
    case Budget::automatic:
      return "auto";
  }
  return "none";
}

Pins parse_pins(const std::string& text) {
  Pins pins;
  if (text == "none") return pins;
  const auto range = [&](std::string_view word) {
    int64_t start = 0, stop = 0;
    const char* end = word.data() + word.size();
    const auto [colon, error] = std::from_chars(word.data(), end, start);
    bool ok = error == std::errc() && colon != end && *colon == ':';
    if (ok) {
      const auto [last, wrong] = std::from_chars(colon + 1, end, stop);
      ok = wrong == std::errc() && last == end && start >= 0 && stop > start && stop <= static_cast<int64_t>(kMaxRows);
    }
    if (!ok || pins.ranges.size() >= kMaxRanges)
      fail(ErrorCode::invalid_argument, "kv pin: found ", quoted(std::string(word)), " in ", quoted(text),
           ", expected words of 'system', 'last-turn' and START:STOP (token indices, at most ", kMaxRanges,
           " ranges) with commas between");
    pins.ranges.emplace_back(start, stop);
  };
  for (std::string_view rest = text; !rest.empty();) {
    const size_t comma = rest.find(',');
    const std::string_view word = rest.substr(0, comma);
    if (word == "system") {
      pins.system = true;
    } else if (word == "last-turn") {
      pins.last_turn = true;
    } else {
      range(word);
    }
    rest = comma == rest.npos ? "" : rest.substr(comma + 1);
  }
  return pins;
}

std::string pins_text(const Pins& pins) {
  std::string out;
  const auto add = [&out](const std::string& word) { out += (out.empty() ? "" : ",") + word; };
  if (pins.system) add("system");
  if (pins.last_turn) add("last-turn");
  for (const auto& [start, stop] : pins.ranges) add(cat(start, ":", stop));
  return out.empty() ? "none" : out;
}

void check_kv_options(const KvOptions& o) {
  check_range("window", o.window, 1, 4096);
  check_range("sinks", o.sinks, 0, 1 << 20);
  check_range("slack", o.slack, 0, 1 << 20);
  const double b = o.budget.value;
  const int least = o.window + o.sinks + 1;
  switch (o.budget.kind) {
    case Budget::everything:
      if (o.on_full == OnFull::evict)
        fail(ErrorCode::invalid_argument, "kv on_full 'evict' needs a budget: found none, expected rows (at least ",
             least, "), a percentage, bytes or 'auto'");
      break;
    case Budget::automatic:
      break;
    case Budget::rows:
      if (!(b >= least && b <= kMaxRows) || b != std::floor(b))
        fail(ErrorCode::invalid_argument, "kv budget: found ", b, " rows per head, expected at least ", least,
             " (window ", o.window, " + sinks ", o.sinks, " + 1)");
      break;
    case Budget::percent:
      if (!(b > 0 && b <= 100))
        fail(ErrorCode::invalid_argument, "kv budget: found ", b, " %, expected more than 0 and at most 100");
      break;
    case Budget::bytes:
      if (!(b >= 1 && b <= kMaxBytes))
        fail(ErrorCode::invalid_argument, "kv budget: found ", b, " bytes, expected 1 to 2^60");
      break;
  }
  if (o.policy == Policy::sparsemm && o.tables.empty())
    fail(ErrorCode::invalid_argument,
         "kv policy 'sparsemm' needs a table of visual-head scores: found no tables file, expected tables=FILE with a "
         "tensor 'head_scores' [n_layer, n_head]");
}

}  // namespace foveal
