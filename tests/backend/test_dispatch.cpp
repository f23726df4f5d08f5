// Names of instruction sets, and what FOVEAL_FORCE_ISA may say.
#include <cstdlib>

#include "engine/backend/choose_isa.h"
#include "engine/core/error.h"
#include "tests/check.h"

using foveal::choose_isa;
using foveal::Error;
using foveal::Isa;

TEST(names) {
  for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon}) {
    Isa back = Isa::scalar;
    CHECK(foveal::isa_from_name(foveal::isa_name(isa), &back));
    CHECK(back == isa);
  }
  Isa untouched = Isa::avx2;
  CHECK(!foveal::isa_from_name("sse9", &untouched));
  CHECK(untouched == Isa::avx2);
  CHECK(foveal::isa_available(Isa::scalar));
}

TEST(choice) {
  ::unsetenv("FOVEAL_FORCE_ISA");
  CHECK(choose_isa("") == foveal::detect_isa());
  CHECK(choose_isa("scalar") == Isa::scalar);
  CHECK_THROWS(Error, "'sse9'", choose_isa("sse9"));
  CHECK_THROWS(Error, "available here: scalar", choose_isa("sse9"));
  ::setenv("FOVEAL_FORCE_ISA", "scalar", 1);
  CHECK(choose_isa("") == Isa::scalar);
  ::setenv("FOVEAL_FORCE_ISA", "AVX1024", 1);
  CHECK_THROWS(Error, "FOVEAL_FORCE_ISA: unknown name 'AVX1024'", choose_isa(""));
  CHECK(choose_isa("scalar") == Isa::scalar);  // the caller's word comes first
  for (Isa isa : {Isa::avx2, Isa::avx512, Isa::neon}) {
    ::setenv("FOVEAL_FORCE_ISA", foveal::isa_name(isa), 1);
    if (foveal::isa_available(isa)) {
      CHECK(choose_isa("") == isa);
    } else {
      CHECK_THROWS(Error, "can't run on this machine", choose_isa(""));
    }
  }
}
