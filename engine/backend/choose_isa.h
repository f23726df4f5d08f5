// The user's word on the instruction set, checked.
#pragma once

#include <string>

#include "kernels/cpu/dispatch.h"

namespace foveal {

// `wanted` if not empty, else the environment's FOVEAL_FORCE_ISA if set and not empty, else the widest available.
// invalid_argument lists the available names when the name is unknown or not available on this machine.
Isa choose_isa(const std::string& wanted);

}  // namespace foveal
