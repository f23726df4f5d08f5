// One layer's choice: scores over the candidates, budgets per head, the rows to keep. Host code, the same for every
// backend; a policy never sees a model. Definitions: eviction policies of SnapKV, PyramidKV, AdaKV, SparseMM, mixed by
// MixKV (arXiv 2510.20707).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/kv/options.h"

namespace foveal {

// One KV head as measured: K, V [n][D] of `type`, queries q [g*Q][D] (query head major).
struct HeadRows {
  KvHead rows;                           // rows.len = n
  std::span<const int32_t> token_index;  // [n] ascending
  const float* q = nullptr;
};

struct SelectLayer {
  int il = 0, n_layer = 1, n_head = 0, n_head_kv = 0, head_dim = 0;
  KvType type = KvType::F32;
  float scale = 0, softcap = 0;
  std::span<const HeadRows> heads;  // [n_head_kv]
  int window = 32;                  // the last rows of each head, always kept
  // Token index of each of the Q queries, ascending: query w sees rows with token_index <= this. Those of the window,
  // or fewer where a session no longer has all of them.
  std::span<const int32_t> window_index;
  // Rows that may never go (sinks, pins, text under scope=image): protect(token index). Empty = none.
  std::span<const uint8_t> is_protected;  // [total tokens] by token index
};

struct SelectParams {
  Policy policy = Policy::adakv;
  Mix mix = Mix::mixkv;
  int64_t budget = 0;  // rows per head on average, window included
  int sinks = 0, kernel = 5;
  double floor = 0.2, beta = 20, rho = 0.1;
  uint64_t seed = 0;
  std::span<const float> head_weight;  // [n_head_kv] offline r of this layer; empty: online
  std::span<const float> head_scores;  // [n_layer * n_head] SparseMM's table; empty: none
};

struct SelectResult {
  std::vector<std::vector<int32_t>> keep;  // [n_head_kv] slots, ascending
  std::vector<float> r;                    // [n_head_kv] redundancy
  std::vector<float> kept_mass;            // [n_head_kv] share of the window's attention on the kept rows
};

SelectResult select_rows(Backend& backend, const SelectLayer& layer, const SelectParams& params);

}  // namespace foveal
