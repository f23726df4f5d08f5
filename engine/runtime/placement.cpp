// Placement: bytes of weights from the file's header, rows and scratch from the model's dimensions.
#include "engine/runtime/placement.h"

#include <algorithm>
#include <numeric>

#include "engine/core/error.h"

namespace foveal {
namespace {

constexpr int64_t kChunkRows = 512, kRingRows = 64, kPlannedRows = 8192;

std::string mib(uint64_t bytes) {
  return cat((bytes + (1 << 20) - 1) >> 20, " MiB");
}

// Bytes of each layer's weights [n_layer], every tensor from a multiple of 256.
std::vector<uint64_t> layer_bytes(const Gguf& file, const TextParams& p) {
  std::vector<uint64_t> out(static_cast<size_t>(p.n_layer), 0);
  for (const TensorInfo& t : file.tensors()) {
    if (t.name.rfind("blk.", 0) != 0) continue;
    const int il = std::atoi(t.name.c_str() + 4);
    if (il >= 0 && il < p.n_layer) out[static_cast<size_t>(il)] += (t.bytes + 255) / 256 * 256;
  }
  return out;
}

// Bytes of the last `layers` layers with the output matrix.
uint64_t weight_bytes(const Gguf& file, const TextParams& p, int layers) {
  const std::vector<uint64_t> each = layer_bytes(file, p);
  const TensorInfo* output = file.find_tensor("output.weight");
  const uint64_t sum = std::accumulate(each.end() - layers, each.end(), uint64_t{0});
  return layers > 0 ? sum + (output ? *output : file.tensor("token_embd.weight")).bytes : 0;
}

// Of one slot for the layers before the last `layers`.
uint64_t slot_bytes(const Gguf& file, const TextParams& p, int layers) {
  const std::vector<uint64_t> each = layer_bytes(file, p);
  return *std::max_element(each.begin(), each.end() - layers);
}

// One layer's rows in the cache, F16.
uint64_t layer_kv_bytes(const TextParams& p, int il, int64_t rows) {
  const int window = p.sliding_window[static_cast<size_t>(il)];
  const int64_t held = window > 0 ? std::min<int64_t>(rows, window + 64) : rows;
  return static_cast<uint64_t>(held) * static_cast<uint64_t>(p.n_head_kv) * static_cast<uint64_t>(p.head_dim) * 4;
}

struct Need {
  uint64_t vision = 0, weights = 0, kv = 0, scratch = 0, slots = 0;
  uint64_t total() const { return least() + kv + scratch; }
  uint64_t least() const { return vision + weights + slots + kGpuMargin; }  // to load the model
};

// `streamed`: the layers before the last `layers` pass through.
Need need_of(const Gguf& file, const TextParams& p, int layers, bool streamed, const VisionRoom& vision) {
  const int64_t rows = std::min<int64_t>(kPlannedRows, p.n_ctx_train);
  Need n;
  n.weights = weight_bytes(file, p, layers);
  for (int il = p.n_layer - layers; il < p.n_layer; ++il) n.kv += layer_kv_bytes(p, il, rows);
  n.scratch = vision.with(gpu_scratch_bytes(p, layers, streamed, rows));
  n.vision = vision.weights;
  if (streamed) n.slots = 2 * slot_bytes(file, p, layers);
  return n;
}

std::string describe(const Need& n) {
  const std::string slots = n.slots > 0 ? cat(", two layers passing through ", mib(n.slots)) : "";
  const std::string first = n.vision > 0 ? cat("picture encoder ", mib(n.vision), ", ") : "";
  return cat(first, "weights ", mib(n.weights), ", KV rows ", mib(n.kv), ", scratch ", mib(n.scratch + kGpuMargin),
             slots);
}

struct Split {
  int layers = 0;         // that stay on the GPU
  bool streamed = false;  // the others pass through it
  VisionRoom vision;      // empty: the encoder doesn't fit
};

// As many as fit; with two slots for the others, or without where those alone don't fit.
Split fit_layers(const Gguf& file, const TextParams& p, const std::string& stream_prefill, const GpuDevice& gpu,
                 const VisionRoom& vision) {
  for (const bool streamed : {true, false}) {
    if (stream_prefill == (streamed ? "off" : "on")) continue;
    for (int n = p.n_layer; n >= (streamed ? 0 : 1); --n)
      if (const bool some = streamed && n < p.n_layer; need_of(file, p, n, some, vision).total() <= gpu.free)
        return {n, some, vision};
  }
  if (vision.weights > 0) return fit_layers(file, p, stream_prefill, gpu, {});
  return {};
}

Split given_layers(const Gguf& file, const TextParams& p, const ModelOptions& o, const GpuDevice& gpu,
                   const VisionRoom& vision) {
  const Need need = need_of(file, p, o.gpu_layers, false, {});
  if (need.least() > gpu.free)
    fail(ErrorCode::out_of_memory, "gpu_layers ", o.gpu_layers, ": the weights take ", mib(need.weights), " and ",
         mib(kGpuMargin), " are kept for the driver, ", mib(gpu.free), " of ", mib(gpu.total), " are free on ",
         gpu.name, "; gpu_layers 'auto' takes as many as fit");
  const bool may_stream = o.gpu_layers < p.n_layer && o.stream_prefill != "off";
  Split split{o.gpu_layers, may_stream && o.stream_prefill == "on", {}};
  const uint64_t before = need_of(file, p, split.layers, split.streamed, {}).least();
  if (before + vision.weights + vision.with(0) <= gpu.free) split.vision = vision;
  if (may_stream && need_of(file, p, split.layers, true, split.vision).total() <= gpu.free) split.streamed = true;
  return split;
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

uint64_t gpu_scratch_bytes(const TextParams& p, int layers, bool streamed, int64_t rows) {
  if (layers == 0 && !streamed) return 0;
  const int64_t kv_width = int64_t{p.n_head_kv} * p.head_dim, q_width = int64_t{p.n_head} * p.head_dim;
  const int64_t a_row = int64_t{p.n_embd} + int64_t{p.n_rope_tables} * p.n_rot + 2 * kv_width;
  const int64_t chunk_row = 2 * int64_t{p.n_embd} + 2 * q_width + 2 * kv_width + 2 * int64_t{p.n_ff};
  const int64_t rings = layers + (streamed ? 1 : 0);
  const int64_t floats =
      rows * a_row + std::min(rows, kChunkRows) * 2 * chunk_row + p.n_vocab + rings * kRingRows * q_width;
  return static_cast<uint64_t>(floats) * 4;
}

Placement place_layers(const Gguf& file, const TextParams& p, const ModelOptions& o, const GpuDevices& devices,
                       const VisionRoom& vision) {
  Placement out;
  if (o.gpu_layers > p.n_layer)
    fail(ErrorCode::invalid_argument, "gpu_layers: found ", o.gpu_layers, ", the model has ", p.n_layer,
         " layers; 'auto' takes all that fit");
  const bool must_stream = o.stream_prefill == "on";
  if (o.stream_prefill != "auto" && !must_stream && o.stream_prefill != "off")
    fail(ErrorCode::invalid_argument, "stream_prefill: found ", quoted(o.stream_prefill),
         ", expected 'auto', 'on' or 'off'");
  const int index = find_device(o.device, o.gpu_layers, devices);
  if (index < 0 && must_stream)
    fail(ErrorCode::device,
         "stream_prefill 'on' needs a GPU: ", o.device == "cpu" ? "found device 'cpu'" : devices.none_because);
  const bool for_prompts = must_stream || (o.stream_prefill == "auto" && o.device != "auto");
  if (index < 0 || (o.gpu_layers == 0 && !for_prompts)) return out;
  const GpuDevice& gpu =
      *std::find_if(devices.found.begin(), devices.found.end(), [&](const GpuDevice& d) { return d.index == index; });
  const Split split =
      o.gpu_layers < 0 ? fit_layers(file, p, o.stream_prefill, gpu, vision) : given_layers(file, p, o, gpu, vision);
  const Need need = need_of(file, p, split.layers, split.streamed, split.vision);
  const std::string where = cat("cuda:", index, " ", gpu.name, ", ", mib(gpu.free), " free");
  if (must_stream && split.layers < p.n_layer && (!split.streamed || need.least() > gpu.free))
    fail(ErrorCode::out_of_memory, "stream_prefill 'on': layers on their way don't fit beside ", split.layers,
         " that stay (", describe(need_of(file, p, split.layers, true, {})), "), found ", where);
  if (split.layers == 0 && !split.streamed) {
    const Need one = need_of(file, p, 1, false, {});
    if (o.device != "auto" && o.gpu_layers != 0)
      fail(ErrorCode::out_of_memory, "device '", o.device, "': not one layer fits (", describe(one), "), found ",
           where);
    out.note = cat("all layers on the CPU: not one fits (", describe(one), "), found ", where);
    return out;
  }
  out.device = index;
  out.gpu_layers = split.layers;
  if (split.streamed) out.stream_slot = slot_bytes(file, p, split.layers);
  out.vision = split.vision.weights > 0;
  out.note = cat(split.layers, " of ", p.n_layer, " layers on ", where, ": ", describe(need));
  if (vision.weights > 0 && !out.vision)
    out.note += cat("; pictures on the CPU: their encoder takes ", mib(vision.weights), " and ", mib(vision.with(0)),
                    " while it runs");
  return out;
}

}  // namespace foveal
