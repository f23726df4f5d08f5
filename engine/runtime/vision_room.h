// What a picture encoder takes in a GPU's memory, from the headers alone.
#pragma once

#include <algorithm>

#include "engine/vision/vision.h"

namespace foveal {

struct VisionRoom {  // bytes; all 0: no encoder there
  uint64_t weights = 0;
  uint64_t scratch = 0;  // while a picture is encoded
  uint64_t staged = 0;   // inputs of its largest product, kept from then on
  // Scratch of a session whose prompts need `prefill` bytes: the two are never needed at one time.
  uint64_t with(uint64_t prefill) const { return std::max(prefill, scratch) + staged; }
};

// For pictures of side x side pixels before resizing. Errors: those of load_vision.
VisionRoom vision_room(const std::shared_ptr<const Gguf>& mmproj, const Gguf& text, const VisionOptions& options,
                       int side = 1024);

}  // namespace foveal
