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

// Extras beside the instruction set: AMX of an AVX-512 machine (bytes and bfloat16; Linux grants the tile registers to
// a process that asks, which the first call does), AVX-VNNI of an AVX2 one, i8mm beside NEON.
bool has_amx();
bool has_avx_vnni();
bool has_neon_i8mm();

// The widest available one. FOVEAL_FORCE_ISA is read by choose_isa (engine/backend/choose_isa.h), which can report.
Isa detect_isa();

}  // namespace foveal
