// Turns a name from the caller or from FOVEAL_FORCE_ISA into an instruction set that this machine can run.
#include "engine/backend/choose_isa.h"

#include <cstdlib>

#include "engine/core/error.h"

namespace foveal {

namespace {

std::string available_names() {
  std::string out;
  const IsaList list = available_isas();
  for (int i = 0; i < list.count; ++i) out += std::string(i ? ", " : "") + isa_name(list.items[i]);
  return out;
}

}  // namespace

Isa choose_isa(const std::string& wanted) {
  std::string name = wanted, source = "instruction set";
  if (name.empty()) {
    const char* forced = std::getenv("FOVEAL_FORCE_ISA");
    if (forced == nullptr || *forced == 0) return detect_isa();
    name = forced;
    source = "FOVEAL_FORCE_ISA";
  }
  Isa isa;
  if (!isa_from_name(name.c_str(), &isa)) {
    fail(ErrorCode::invalid_argument, source, ": unknown name ", quoted(name), "; available here: ", available_names());
  }
  if (!isa_available(isa)) {
    fail(ErrorCode::invalid_argument, source, ": ", name,
         " can't run on this machine; available here: ", available_names());
  }
  return isa;
}

}  // namespace foveal
