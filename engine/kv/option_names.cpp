// Scope, on_full and dtype of the KV options from their names in Python and on the command line.
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

}  // namespace

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
