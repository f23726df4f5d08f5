// Byte-level BPE (tokenizer.ggml.model "gpt2").
#pragma once

#include <memory>

#include "engine/text/tokenizer.h"

namespace foveal {

std::shared_ptr<const Tokenizer> load_bpe(const Gguf& file);

}  // namespace foveal
