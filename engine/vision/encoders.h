// The loaders of the encoder families, one a projector type; registry.cpp chooses.
#pragma once

#include <memory>

#include "engine/vision/vision.h"

namespace foveal {

struct VisionSource {
  std::shared_ptr<const Gguf> file;  // mmproj
  const Gguf& text;
  Backend& backend;
  const VisionOptions& options;
};
using VisionLoader = std::unique_ptr<VisionEncoder>(const VisionSource&);

VisionLoader load_qwen2vl, load_qwen25vl, load_qwen3vl, load_llava, load_internvl, load_idefics3, load_gemma3;

}  // namespace foveal
