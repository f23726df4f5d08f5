#!/usr/bin/env bash
# On a machine with an NVIDIA card, all of it in one call: builds with CUDA for that card, runs the tests named cuda*
# (kernels on the host shim, sessions and encoders on the card), compute-sanitizer over a small one where it is
# installed, and prints the card's speed as tables for docs/gpu.md. Needs nvcc, cmake, and Python with numpy and gguf;
# 16 GB of disk for models with random weights, which are made once. FOVEAL_GPU_BUILD: the build's folder (build-gpu).
set -euo pipefail
cd "$(dirname "$0")/../.."

refuse() {
  printf 'gpu.sh: %s\n' "$1" >&2
  exit 2
}
export PATH="$PATH:/usr/local/cuda/bin"
command -v nvidia-smi > /dev/null || refuse "no nvidia-smi: there is no NVIDIA driver here"
nvidia-smi -L > /dev/null 2>&1 || refuse "nvidia-smi finds no card: $(nvidia-smi -L 2>&1 | head -n 1)"
command -v nvcc > /dev/null || refuse "no nvcc in PATH or /usr/local/cuda/bin: the CUDA toolkit is needed to build"
command -v cmake > /dev/null || refuse "no cmake in PATH"
python3 -c 'import gguf, numpy' 2> /dev/null || refuse "python3 lacks gguf or numpy: pip install gguf numpy"

build=${FOVEAL_GPU_BUILD:-build-gpu}
architecture=${FOVEAL_GPU_ARCHITECTURES:-native}
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DFOVEAL_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="$architecture"
cmake --build "$build" --parallel
ctest --test-dir "$build" -R '^cuda' --output-on-failure --no-tests=error -j "$(nproc)"
"$build/foveal" --list-devices

if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    printf '\n== compute-sanitizer %s\n' "$tool"
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/cuda_gpu_sessions"
  done
else
  echo "skipped: compute-sanitizer is not in PATH"
fi

nvcc -O3 -std=c++20 -arch=native -o "$build/gpu_limits" tools/bench/gpu_limits.cu
printf '\n'
python3 tools/bench/gpu_table.py "$build/foveal" "$build/gpu_limits" "$build"
