// Which layers a GPU computes: the last N, so that the hidden states cross once.
#pragma once

#include "engine/backend/devices.h"
#include "engine/engine.h"
#include "engine/models/text_model.h"
#include "engine/runtime/vision_room.h"

namespace foveal {

struct Placement {
  int device = -1;     // index of the GPU, -1: none
  int gpu_layers = 0;  // the last layers, with the output matrix
  // Bytes of each of the two slots through which the other layers are streamed while a prompt is read; 0: they aren't.
  uint64_t stream_slot = 0;
  bool vision = false;  // the picture encoder too
  std::string note;     // what was chosen, in words; "" without a GPU
};

// From the headers alone, before any weight is read. Errors, all with numbers: invalid_argument (a device that isn't
// known, more layers than the model has), device (there is no GPU), out_of_memory (the layers don't fit).
// vision: of the encoder that goes to the GPU before any layer does, if it leaves room for one.
Placement place_layers(const Gguf& file, const TextParams& p, const ModelOptions& o, const GpuDevices& devices,
                       const VisionRoom& vision = {});

// Bytes beside weights that `layers` layers (and layers that are streamed) take on a GPU while a session of `rows` rows
// reads its prompt: what lives for that time (hidden states, one layer's rows in float32, a chunk's scratch), the
// remembered queries.
uint64_t gpu_scratch_bytes(const TextParams& p, int layers, bool streamed, int64_t rows);

// Kept free of a plan: the driver's own, and staging buffers of single operations.
constexpr uint64_t kGpuMargin = 128u << 20;

}  // namespace foveal
