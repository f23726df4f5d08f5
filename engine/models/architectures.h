// What registry.cpp knows of an architecture: its name, its parameters, its model.
#pragma once

#include "engine/models/text_model.h"

namespace foveal {

struct Architecture {
  const char* name;  // general.architecture
  TextParams (*read_params)(const Gguf& file);
  std::unique_ptr<TextModel> (*load)(std::shared_ptr<const Gguf> file, Backend& backend, ModelPart part);
};

}  // namespace foveal
