// The KV options from their names in Python and on the command line, and back.
#include <array>
#include <string_view>
#include <utility>

#include "engine/core/error.h"
#include "engine/kv/options.h"

namespace foveal {
namespace {

template <class T, size_t N>
T find(const char* option, const std::string& name, const std::array<std::pair<std::string_view, T>, N>& table) {
  std::string names;
  for (const auto& [known, value] : table) {
    if (known == name) return value;
    names += (names.empty() ? "" : ", ") + std::string(known);
  }
  fail(ErrorCode::invalid_argument, option, ": found ", quoted(name), ", expected one of ", names);
}

using PolicyName = std::pair<std::string_view, Policy>;
using MixName = std::pair<std::string_view, Mix>;
constexpr std::array<PolicyName, 6> kPolicies = {{{"snapkv", Policy::snapkv},
                                                  {"pyramidkv", Policy::pyramidkv},
                                                  {"adakv", Policy::adakv},
                                                  {"sparsemm", Policy::sparsemm},
                                                  {"streaming", Policy::streaming},
                                                  {"random", Policy::random}}};
constexpr std::array<MixName, 6> kMixes = {{{"none", Mix::none},
                                            {"vnorm", Mix::vnorm},
                                            {"keydiff", Mix::keydiff},
                                            {"fixed", Mix::fixed},
                                            {"mixkv", Mix::mixkv},
                                            {"sharp", Mix::sharp}}};

template <class Table, class T>
const char* name_of(const Table& table, T value) {
  for (const auto& [name, known] : table)
    if (known == value) return name.data();
  return "?";
}

}  // namespace

Policy policy_from_name(const std::string& name) {
  return find("kv policy", name, kPolicies);
}
Mix mix_from_name(const std::string& name) {
  return find("kv mix", name, kMixes);
}
const char* policy_name(Policy p) {
  return name_of(kPolicies, p);
}
const char* mix_name(Mix m) {
  return name_of(kMixes, m);
}

const char* scope_name(Scope s) {
  return s == Scope::image ? "image" : "prompt";
}
const char* on_full_name(OnFull o) {
  return o == OnFull::stop ? "stop" : o == OnFull::evict ? "evict" : "error";
}
const char* kv_type_name(KvType t) {
  switch (t) {
    case KvType::F32:
      return "f32";
    case KvType::F16:
      return "f16";
    case KvType::Q8_0:
      return "q8_0";
    case KvType::Q4_0:
      return "q4_0";
  }
  return "";
}

Scope scope_from_name(const std::string& name) {
  return find<Scope, 2>("kv scope", name, {{{"prompt", Scope::prompt}, {"image", Scope::image}}});
}

OnFull on_full_from_name(const std::string& name) {
  return find<OnFull, 3>("kv on_full", name,
                         {{{"stop", OnFull::stop}, {"evict", OnFull::evict}, {"error", OnFull::error}}});
}

KvType kv_type_from_name(const std::string& name) {
  return find<KvType, 4>(
      "kv dtype", name, {{{"f16", KvType::F16}, {"f32", KvType::F32}, {"q8_0", KvType::Q8_0}, {"q4_0", KvType::Q4_0}}});
}

}  // namespace foveal
