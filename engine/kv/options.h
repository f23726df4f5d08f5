// What the user asks of the KV cache. Names as in the papers and in the Python face.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/backend/backend.h"

namespace foveal {

enum class Policy { snapkv, pyramidkv, adakv, sparsemm, streaming, random };
enum class Mix { none, vnorm, keydiff, fixed, mixkv, sharp };
enum class Scope { prompt, image };
enum class OnFull { stop, evict, error };

struct Budget {
  enum Kind { everything, rows, percent, bytes, automatic } kind = everything;
  double value = 0;  // rows per KV head and layer on average | percent of the prompt's rows | bytes
};
Budget parse_budget(const std::string& text);  // "256", "25%", "256MiB", "auto", "none"; invalid_argument otherwise

// What is never evicted beside the sinks and the window: "system,last-turn,0:16".
struct Pins {
  bool system = false;     // rows of a chat's system message
  bool last_turn = false;  // text rows of the newest prompt (the question; its answer is not pinned)
  std::vector<std::pair<int64_t, int64_t>> ranges;  // token indices [start, stop)
};
Pins parse_pins(const std::string& text);  // "" or "none": nothing; invalid_argument otherwise
std::string pins_text(const Pins& pins);   // what parse_pins reads

struct KvOptions {
  Budget budget;
  Policy policy = Policy::adakv;
  Mix mix = Mix::mixkv;
  int window = 32, sinks = 0;
  Scope scope = Scope::prompt;
  int slack = 32;
  std::string tables;  // file of SparseMM head scores and offline r; "" = none
  uint64_t seed = 0;
  KvType dtype = KvType::F16;
  OnFull on_full = OnFull::stop;
  bool shadow = false;  // score and report, evict nothing
  Pins pin;
};
Policy policy_from_name(const std::string& name);  // invalid_argument lists the names; likewise below
Mix mix_from_name(const std::string& name);
Scope scope_from_name(const std::string& name);     // "prompt" | "image"
OnFull on_full_from_name(const std::string& name);  // "stop" | "evict" | "error"
KvType kv_type_from_name(const std::string& name);  // "f16" | "f32" | "q8_0" | "q4_0"
const char* policy_name(Policy p);
const char* mix_name(Mix m);
const char* scope_name(Scope s);
const char* on_full_name(OnFull o);
const char* kv_type_name(KvType t);
std::string budget_text(const Budget& b);  // what parse_budget reads
// Ranges and combinations; `window + sinks` must be below a row budget (names the least that works).
void check_kv_options(const KvOptions& o);

}  // namespace foveal
