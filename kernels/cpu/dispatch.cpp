// Asks the CPU (cpuid) and the operating system (xgetbv: which registers it saves; on Arm the auxiliary vector says
// both) what may be executed.
#include "kernels/cpu/dispatch.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <setjmp.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace foveal {

namespace {

const char* const names[] = {"scalar", "avx2", "avx512", "neon"};

#if defined(__x86_64__)
// XCR0: the register states that the operating system saves on a context switch. Call only when OSXSAVE is set.
uint64_t saved_states() {
  uint32_t lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (static_cast<uint64_t>(hi) << 32) | lo;
}

constexpr bool bit(uint32_t word, int i) {
  return ((word >> i) & 1u) != 0;
}

// The system saves the large tile registers only for processes that ask; refused when a signal stack is too small.
bool grants_tiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

#if defined(__linux__)
sigjmp_buf after_fault;
#endif

// Some virtual machines announce tiles, grant them, and fault on the first instruction: it is tried once, here.
bool tiles_work() {
#if defined(__linux__)
  alignas(64) uint8_t shape[64] = {1};  // palette 1; tile 0: 16 rows of 64 bytes
  shape[16] = 64, shape[48] = 16;
  struct sigaction ours = {}, before = {};
  ours.sa_handler = [](int) { siglongjmp(after_fault, 1); };
  if (sigaction(SIGILL, &ours, &before) != 0) return false;
  volatile bool worked = false;
  if (sigsetjmp(after_fault, 1) == 0) {
    __asm__ volatile("ldtilecfg %0\n\ttilezero %%tmm0\n\ttilerelease" : : "m"(shape) : "memory");
    worked = true;
  }
  sigaction(SIGILL, &before, nullptr);
  return worked;
#else
  return false;
#endif
}

struct X86 {
  bool avx2 = false, avx512 = false, vnni = false, amx = false;
};

X86 probe() {
  X86 found;
  uint32_t a, b, c, d, b7, c7;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const bool osxsave = bit(c, 27), avx = bit(c, 28), fma = bit(c, 12), f16c = bit(c, 29);
  if (!osxsave || !avx || !fma || !f16c) return found;
  uint32_t d7;
  if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return found;
  const uint64_t states = saved_states();
  const bool ymm = (states & 0x6) == 0x6;        // SSE and AVX halves
  const bool zmm = (states & 0xe6) == 0xe6;      // and opmask, upper halves of zmm0-15, zmm16-31
  found.avx2 = ymm && bit(b7, 5) && bit(b7, 8);  // AVX2, BMI2
  found.avx512 = found.avx2 && zmm && bit(b7, 16) && bit(b7, 17) && bit(b7, 30) && bit(b7, 31) &&  // F, DQ, BW, VL
                 bit(c7, 11);                                                                      // VNNI
  uint32_t a71 = 0;
  if (__get_cpuid_count(7, 1, &a71, &b, &c, &d)) {
    found.vnni = found.avx2 && bit(a71, 4);
    const bool tiles = bit(d7, 22) && bit(d7, 24) && bit(d7, 25) && bit(a71, 5);  // AMX-BF16, tiles, INT8, AVX512-BF16
    found.amx = found.avx512 && tiles && (states & 0x60000) == 0x60000 && grants_tiles() && tiles_work();
  }
  return found;
}

const X86& cpu() {
  static const X86 found = probe();
  return found;
}
#elif defined(__aarch64__) && defined(__linux__)
// What the NEON objects are compiled for: dot products of bytes, half precision in vectors and alone.
[[maybe_unused]] bool has_dot_and_half() {
  constexpr unsigned long wanted = HWCAP_ASIMDDP | HWCAP_ASIMDHP | HWCAP_FPHP;
  return (::getauxval(AT_HWCAP) & wanted) == wanted;
}
#endif

}  // namespace

const char* isa_name(Isa isa) {
  return names[static_cast<int>(isa)];
}

bool isa_from_name(const char* name, Isa* isa) {
  for (int i = 0; i < 4; ++i) {
    if (std::strcmp(name, names[i]) != 0) continue;
    *isa = static_cast<Isa>(i);
    return true;
  }
  return false;
}

IsaList available_isas() {
  IsaList list{{Isa::scalar}, 1};
#if defined(__x86_64__)
#if defined(FOVEAL_HAVE_avx2)
  if (cpu().avx2) list.items[list.count++] = Isa::avx2;
#endif
#if defined(FOVEAL_HAVE_avx512)
  if (cpu().avx512) list.items[list.count++] = Isa::avx512;
#endif
#elif defined(FOVEAL_HAVE_neon) && defined(__linux__)
  if (has_dot_and_half()) list.items[list.count++] = Isa::neon;
#endif
  return list;
}

bool has_amx() {
#if defined(__x86_64__)
  return cpu().amx;
#else
  return false;
#endif
}

bool has_avx_vnni() {
#if defined(__x86_64__)
  return cpu().vnni;
#else
  return false;
#endif
}

bool has_neon_i8mm() {
#if defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kI8mm = 1ul << 13;  // HWCAP2_I8MM, which old headers lack
  return (::getauxval(AT_HWCAP2) & kI8mm) != 0;
#else
  return false;
#endif
}

bool isa_available(Isa isa) {
  const IsaList list = available_isas();
  for (int i = 0; i < list.count; ++i) {
    if (list.items[i] == isa) return true;
  }
  return false;
}

Isa detect_isa() {
  const IsaList list = available_isas();
  return list.items[list.count - 1];
}

}  // namespace foveal
