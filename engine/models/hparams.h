// Hyperparameters from a text GGUF's header, every key ranged and checked against the others and against the tensors.
#pragma once

#include "engine/models/text_model.h"

namespace foveal {

// The keys that all architectures share: {arch}.block_count, .embedding_length, .attention.*, ... file_format names
// key, found and expected; unsupported: mixtures of experts, values of another length than keys.
TextParams read_common_params(const Gguf& file);

// What an architecture needs beside the tensors that all have.
struct TensorNeeds {
  bool qk_norm = false;     // attn_{q,k}_norm.weight, per head
  bool post_norms = false;  // post_attention_norm.weight, post_ffw_norm.weight
};
// Every required tensor is there in the shape that the parameters say; file_format names the first that isn't, with
// both shapes. Nothing is read.
void check_tensors(const Gguf& file, const TextParams& p, const TensorNeeds& needs = {});

}  // namespace foveal
