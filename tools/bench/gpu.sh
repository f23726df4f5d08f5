#!/usr/bin/env bash
# On a machine with an NVIDIA card: builds with CUDA for it, runs the tests named cuda*, then decode and prefill on the
# card and on the CPU. tools/bench/gpu.sh [MODEL.gguf ...]: without models, four with random weights are made (numpy, gguf).
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${FOVEAL_GPU_BUILD:-build-gpu}
cmake -S . -B "$build" -DFOVEAL_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="${FOVEAL_GPU_ARCHITECTURES:-native}"
cmake --build "$build" --parallel
ctest --test-dir "$build" -R '^cuda' --output-on-failure
"$build/foveal" --list-devices
models=("$@")
if [ "${#models[@]}" = 0 ]; then
  like=tests/data/text_llama/model-f16.gguf
  for type in Q4_K_M Q8_0; do
    small=$build/random-1.4b-$type.gguf large=$build/random-7b-$type.gguf
    [ -f "$small" ] || python3 tools/bench/make_model.py text "$small" --like "$like" --type "$type"
    [ -f "$large" ] || python3 tools/bench/make_model.py text "$large" --like "$like" --type "$type" \
      --layers 32 --embd 4096 --heads 32 --kv-heads 8 --ffn 14336
    models+=("$small" "$large")
  done
fi
for model in "${models[@]}"; do
  printf '\n%s\n' "$model"
  for device in cuda cpu; do
    "$build/foveal" bench -m "$model" --device "$device" -p 512,2048 -n 64 -d 0,8192 -r 3
    "$build/foveal" bench -m "$model" --device "$device" -p 0 -n 64 -d 8192 --kv-budget 256 -r 3
  done
done
