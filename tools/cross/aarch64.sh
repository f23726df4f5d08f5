#!/usr/bin/env bash
# The build for aarch64 and its tests, on any machine: tools/cross/aarch64.sh [BUILD_FOLDER]. Needs Debian's
# g++-aarch64-linux-gnu, CMake and Ninja; with qemu-user-static it also runs the tests of kernels and backend, and the
# program: once with NEON and i8mm, once on a CPU with dot products alone, once with the scalar kernels, and once on a CPU
# without dot products.
set -euo pipefail
cd "$(dirname "$0")/../.."

build=${1:-build-aarch64}
tests=(test_matmul test_pack test_dequant test_dispatch test_backend_attention test_backend_kv test_backend_rows)
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake
cmake --build "$build" --target foveal_cli "${tests[@]}"

qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64 || true)
if [ -z "$qemu" ]; then
  echo "built in $build; no qemu-aarch64 here: nothing was run"
  exit 0
fi
pattern=$(IFS='|'; echo "${tests[*]}")
ctest --test-dir "$build" --output-on-failure --no-tests=error -R "^($pattern)\$"

answer() { "$qemu" "${cpu[@]}" "$build/foveal" run -m "$model" -p "Once upon a time" --raw -n 16 --temp 0; }
for model in tests/data/text_llama/model-{f16,q4_k}.gguf; do
  cpu=(-cpu max)
  neon=$(FOVEAL_FORCE_ISA=neon answer)
  scalar=$(FOVEAL_FORCE_ISA=scalar answer)
  cpu=(-cpu neoverse-n1)
  dots=$(FOVEAL_FORCE_ISA=neon answer)
  cpu=(-cpu cortex-a72)  # without dot products: scalar is chosen by itself, and NEON refused
  old=$(answer)
  if FOVEAL_FORCE_ISA=neon answer 2> /dev/null; then echo "NEON accepted by a CPU without dot products"; exit 1; fi
  if [ "$neon" != "$scalar" ] || [ "$dots" != "$scalar" ] || [ "$old" != "$scalar" ]; then
    printf '%s: i8mm, dot products, scalar and cortex-a72 differ:\n%s\n%s\n%s\n%s\n' \
      "$model" "$neon" "$dots" "$scalar" "$old"
    exit 1
  fi
  printf '%s: %s\n' "$model" "$neon"
done
