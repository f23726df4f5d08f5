// SentencePiece BPE (tokenizer.ggml.model "llama").
#pragma once

#include <memory>

#include "engine/text/tokenizer.h"

namespace foveal {

std::shared_ptr<const Tokenizer> load_spm(const Gguf& file);

}  // namespace foveal
