// Which instruction set the CPU kernels use: an instruction set is available when it was compiled in and both the CPU
// and the operating system allow it.
#pragma once

namespace foveal {

enum class Isa { scalar, avx2, avx512, neon };

const char* isa_name(Isa isa);
// True and *isa set when `name` is the name of an instruction set known to this source, available here or not.
bool isa_from_name(const char* name, Isa* isa);

// Narrowest first; scalar is always there.
struct IsaList {
  Isa items[4];
  int count;
};
IsaList available_isas();
bool isa_available(Isa isa);

// The widest available one. FOVEAL_FORCE_ISA is read by choose_isa (engine/backend/choose_isa.h), which can report.
Isa detect_isa();

}  // namespace foveal
