// Placement: bytes of weights from the file's header, rows and scratch from the model's dimensions.
#include "engine/runtime/placement.h"

#include <algorithm>

#include "engine/core/error.h"

namespace foveal {
namespace {

constexpr int64_t kChunkRows = 512, kRingRows = 64, kPlannedRows = 8192;

std::string mib(uint64_t bytes) {
  return cat((bytes + (1 << 20) - 1) >> 20, " MiB");
}

// Bytes of the last `layers` layers with the output matrix.
uint64_t weight_bytes(const Gguf& file, const TextParams& p, int layers) {
  uint64_t sum = 0;
  for (const TensorInfo& t : file.tensors()) {
    if (t.name.rfind("blk.", 0) != 0) continue;
    const int il = std::atoi(t.name.c_str() + 4);
    if (il >= p.n_layer - layers && il < p.n_layer) sum += t.bytes;
  }
  const TensorInfo* output = file.find_tensor("output.weight");
  return layers > 0 ? sum + (output ? *output : file.tensor("token_embd.weight")).bytes : 0;
}

// One layer's rows in the cache, F16.
uint64_t layer_kv_bytes(const TextParams& p, int il, int64_t rows) {
  const int window = p.sliding_window[static_cast<size_t>(il)];
  const int64_t held = window > 0 ? std::min<int64_t>(rows, window + 64) : rows;
  return static_cast<uint64_t>(held) * static_cast<uint64_t>(p.n_head_kv) * static_cast<uint64_t>(p.head_dim) * 4;
}

struct Need {
  uint64_t weights = 0, kv = 0, scratch = 0;
  uint64_t total() const { return weights + kv + scratch + kGpuMargin; }
};

Need need_of(const Gguf& file, const TextParams& p, int layers) {
  const int64_t rows = std::min<int64_t>(kPlannedRows, p.n_ctx_train);
  Need n;
  n.weights = weight_bytes(file, p, layers);
  for (int il = p.n_layer - layers; il < p.n_layer; ++il) n.kv += layer_kv_bytes(p, il, rows);
  n.scratch = gpu_scratch_bytes(p, layers, rows);
  return n;
}

std::string describe(const Need& n) {
  return cat("weights ", mib(n.weights), ", KV rows ", mib(n.kv), ", scratch ", mib(n.scratch + kGpuMargin));
}

// Index of the GPU that `device` names ("cuda" is the first), -1: the CPU.
int find_device(const std::string& device, int gpu_layers, const GpuDevices& devices) {
  const bool any = device == "auto" || device == "cuda";
  if (device == "cpu") {
    if (gpu_layers > 0)
      fail(ErrorCode::invalid_argument, "gpu_layers: found ", gpu_layers, " with device 'cpu', expected 0 or 'auto'");
    return -1;
  }
  int index = 0;
  if (!any) {
    const std::string digits = device.rfind("cuda:", 0) == 0 ? device.substr(5) : "";
    if (digits.empty() || digits.size() > 3 || digits.find_first_not_of("0123456789") != std::string::npos)
      fail(ErrorCode::invalid_argument, "device: found ", quoted(device),
           ", expected 'auto', 'cpu', 'cuda' or 'cuda:N'");
    index = std::stoi(digits);
  }
  if (devices.found.empty()) {
    if (device == "auto" && gpu_layers <= 0) return -1;
    fail(ErrorCode::device, device == "auto" ? cat("gpu_layers ", gpu_layers) : cat("device '", device, "'"), ": ",
         devices.none_because, "; use device 'cpu'", device == "auto" ? " and gpu_layers 0" : " or 'auto'");
  }
  for (const GpuDevice& d : devices.found)
    if (any || d.index == index) return d.index;
  fail(ErrorCode::device, "device '", device, "': found ", devices.found.size(), " GPUs, numbered from 0");
}

}  // namespace

uint64_t gpu_scratch_bytes(const TextParams& p, int layers, int64_t rows) {
  if (layers == 0) return 0;
  const int64_t kv_width = int64_t{p.n_head_kv} * p.head_dim, q_width = int64_t{p.n_head} * p.head_dim;
  const int64_t a_row = int64_t{p.n_embd} + int64_t{p.n_rope_tables} * p.n_rot + 2 * kv_width;
  const int64_t chunk_row = 2 * int64_t{p.n_embd} + 2 * q_width + 2 * kv_width + 2 * int64_t{p.n_ff};
  const int64_t floats =
      rows * a_row + std::min(rows, kChunkRows) * 2 * chunk_row + p.n_vocab + int64_t{layers} * kRingRows * q_width;
  return static_cast<uint64_t>(floats) * 4;
}

Placement place_layers(const Gguf& file, const TextParams& p, const ModelOptions& o, const GpuDevices& devices) {
  Placement out;
  if (o.gpu_layers > p.n_layer)
    fail(ErrorCode::invalid_argument, "gpu_layers: found ", o.gpu_layers, ", the model has ", p.n_layer,
         " layers; 'auto' takes all that fit");
  const int index = find_device(o.device, o.gpu_layers, devices);
  if (index < 0 || o.gpu_layers == 0) return out;
  const GpuDevice& gpu =
      *std::find_if(devices.found.begin(), devices.found.end(), [&](const GpuDevice& d) { return d.index == index; });
  int layers = o.gpu_layers;
  if (layers < 0) {
    for (layers = p.n_layer; layers > 0 && need_of(file, p, layers).total() > gpu.free;) --layers;
  } else {
    const uint64_t least = weight_bytes(file, p, layers) + kGpuMargin;
    if (least > gpu.free)
      fail(ErrorCode::out_of_memory, "gpu_layers ", layers, ": the weights take ", mib(least - kGpuMargin), " and ",
           mib(kGpuMargin), " are kept for the driver, ", mib(gpu.free), " of ", mib(gpu.total), " are free on ",
           gpu.name, "; gpu_layers 'auto' takes as many as fit");
  }
  const std::string where = cat("cuda:", index, " ", gpu.name, ", ", mib(gpu.free), " free");
  if (layers == 0) {
    const Need one = need_of(file, p, 1);
    if (o.device != "auto")
      fail(ErrorCode::out_of_memory, "device '", o.device, "': not one layer fits (", describe(one), "), found ",
           where);
    out.note = cat("all layers on the CPU: not one fits (", describe(one), "), found ", where);
    return out;
  }
  out.device = index;
  out.gpu_layers = layers;
  out.note = cat(layers, " of ", p.n_layer, " layers on ", where, ": ", describe(need_of(file, p, layers)));
  return out;
}

}  // namespace foveal
