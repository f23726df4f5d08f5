// The shared keys and tensors of decoders; what is special stands in each architecture's file.
#include "engine/models/hparams.h"

#include <cmath>

#include "engine/core/error.h"

namespace foveal {
namespace {

constexpr int64_t kMaxWidth = 1 << 20, kMaxHeadDim = 1024;

// A number that some converters write once and others once a layer.
std::optional<int64_t> find_per_layer(const Gguf& file, const std::string& key, int n_layer, int64_t min, int64_t max) {
  if (!file.is_array(key)) return file.find_int(key, min, max);
  const auto n = static_cast<uint64_t>(n_layer);
  const auto all = *file.find_ints(key, n, n, min, max);
  for (size_t il = 1; il < all.size(); ++il)
    if (all[il] != all[0])
      fail(ErrorCode::unsupported, file.path(), ": key '", key, "': layer ", il, " has ", all[il], ", layer 0 has ",
           all[0], "; layers of unequal shape aren't supported");
  return all[0];
}

int need(const Gguf& file, const std::string& key, std::optional<int64_t> value, int64_t min, int64_t max) {
  if (!value)
    fail(ErrorCode::file_format, file.path(), ": key '", key, "' is missing, expected an integer from ", min, " to ",
         max);
  return static_cast<int>(*value);
}

void read_heads(const Gguf& file, TextParams& p) {
  const std::string key = p.arch + ".attention.";
  const auto head_count = find_per_layer(file, key + "head_count", p.n_layer, 1, 4096);
  p.n_head = need(file, key + "head_count", head_count, 1, 4096);
  p.n_head_kv = static_cast<int>(find_per_layer(file, key + "head_count_kv", p.n_layer, 1, 4096).value_or(p.n_head));
  if (p.n_head_kv > p.n_head || p.n_head % p.n_head_kv != 0)
    fail(ErrorCode::file_format, file.path(), ": key '", key, "head_count_kv': found ", p.n_head_kv,
         ", expected a divisor of head_count, ", p.n_head);
  const auto key_length = file.find_int(key + "key_length", 1, kMaxHeadDim);
  if (!key_length && (p.n_embd % p.n_head != 0 || p.n_embd / p.n_head > kMaxHeadDim))
    fail(ErrorCode::file_format, file.path(), ": key '", key, "head_count': found ", p.n_head,
         ", expected a divisor of embedding_length, ", p.n_embd, ", with heads of at most ", kMaxHeadDim);
  p.head_dim = static_cast<int>(key_length.value_or(p.n_embd / p.n_head));
  const auto value_length = file.find_int(key + "value_length", 1, kMaxHeadDim);
  if (value_length && *value_length != p.head_dim)
    fail(ErrorCode::unsupported, file.path(), ": key '", key, "value_length': found ", *value_length,
         ", supported is that of the keys, ", p.head_dim);
  if (int64_t{p.n_head} * p.head_dim > kMaxWidth)
    fail(ErrorCode::file_format, file.path(), ": found ", p.n_head, " heads of ", p.head_dim, ", expected at most ",
         kMaxWidth, " in all");
  p.attend.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(p.head_dim)));
}

// Rows of the embedding table; the tokenizer's words must be as many.
int read_vocabulary_size(const Gguf& file) {
  const TensorInfo& table = file.tensor("token_embd.weight");
  if (table.rows() > INT32_MAX)
    fail(ErrorCode::file_format, file.path(), ": tensor 'token_embd.weight': found ", table.rows(),
         " rows, expected fewer");
  const auto words = file.find_string_views("tokenizer.ggml.tokens", 0, UINT32_MAX);
  if (words && static_cast<int64_t>(words->size()) != table.rows())
    fail(ErrorCode::file_format, file.path(), ": key 'tokenizer.ggml.tokens': found ", words->size(),
         " words, expected one a row of 'token_embd.weight' ", table.shape());
  return static_cast<int>(table.rows());
}

}  // namespace

TextParams read_common_params(const Gguf& file) {
  TextParams p;
  p.arch = file.get_string("general.architecture");
  if (const std::string* name = file.find_string("general.name")) p.name = *name;
  const std::string key = p.arch + ".";
  if (file.find_int(key + "expert_count", 0, INT32_MAX).value_or(0) > 0)
    fail(ErrorCode::unsupported, file.path(), ": key '", key, "expert_count': mixtures of experts aren't supported");
  p.n_layer = static_cast<int>(file.get_int(key + "block_count", 1, 512));
  p.n_ctx_train = static_cast<int>(file.get_int(key + "context_length", 1, 1 << 30));
  p.n_embd = static_cast<int>(file.get_int(key + "embedding_length", 1, kMaxWidth));
  const auto n_ff = find_per_layer(file, key + "feed_forward_length", p.n_layer, 1, kMaxWidth);
  p.n_ff = need(file, key + "feed_forward_length", n_ff, 1, kMaxWidth);
  p.eps = static_cast<float>(file.get_float(key + "attention.layer_norm_rms_epsilon", 1e-12, 1));
  read_heads(file, p);
  p.n_rot = static_cast<int>(file.find_int(key + "rope.dimension_count", 2, p.head_dim).value_or(p.head_dim));
  if (p.n_rot % 2 != 0)
    fail(ErrorCode::file_format, file.path(), ": key '", key, "rope.dimension_count': found ", p.n_rot,
         ", expected an even number");
  p.n_vocab = read_vocabulary_size(file);
  p.sliding_window.assign(static_cast<size_t>(p.n_layer), 0);
  return p;
}

void check_tensors(const Gguf& file, const TextParams& p, const TensorNeeds& needs) {
  const int64_t n_q = int64_t{p.n_head} * p.head_dim, n_kv = int64_t{p.n_head_kv} * p.head_dim;
  file.tensor("token_embd.weight", {p.n_embd, p.n_vocab});
  for (int il = 0; il < p.n_layer; ++il) {
    const std::string b = "blk." + std::to_string(il) + ".";
    const auto optional = [&](const char* name, int64_t n) {
      if (file.find_tensor(b + name)) file.tensor(b + name, {n});
    };
    file.tensor(b + "attn_norm.weight", {p.n_embd});
    if (file.find_tensor(b + "attn_qkv.weight")) {
      file.tensor(b + "attn_qkv.weight", {p.n_embd, n_q + 2 * n_kv});
    } else {
      file.tensor(b + "attn_q.weight", {p.n_embd, n_q});
      file.tensor(b + "attn_k.weight", {p.n_embd, n_kv});
      file.tensor(b + "attn_v.weight", {p.n_embd, n_kv});
    }
    optional("attn_qkv.bias", n_q + 2 * n_kv);
    optional("attn_q.bias", n_q);
    optional("attn_k.bias", n_kv);
    optional("attn_v.bias", n_kv);
    if (needs.qk_norm) {
      file.tensor(b + "attn_q_norm.weight", {p.head_dim});
      file.tensor(b + "attn_k_norm.weight", {p.head_dim});
    }
    file.tensor(b + "attn_output.weight", {n_q, p.n_embd});
    optional("attn_output.bias", p.n_embd);
    if (needs.post_norms) file.tensor(b + "post_attention_norm.weight", {p.n_embd});
    file.tensor(b + "ffn_norm.weight", {p.n_embd});
    file.tensor(b + "ffn_gate.weight", {p.n_embd, p.n_ff});
    file.tensor(b + "ffn_up.weight", {p.n_embd, p.n_ff});
    file.tensor(b + "ffn_down.weight", {p.n_ff, p.n_embd});
    optional("ffn_gate.bias", p.n_ff);
    optional("ffn_up.bias", p.n_ff);
    optional("ffn_down.bias", p.n_embd);
    if (needs.post_norms) file.tensor(b + "post_ffw_norm.weight", {p.n_embd});
  }
  file.tensor("output_norm.weight", {p.n_embd});
  if (file.find_tensor("output.weight")) file.tensor("output.weight", {p.n_embd, p.n_vocab});
  if (file.find_tensor("output.bias")) file.tensor("output.bias", {p.n_vocab});
  if (file.find_tensor("rope_freqs.weight")) file.tensor("rope_freqs.weight", {p.n_rot / 2});
}

}  // namespace foveal
