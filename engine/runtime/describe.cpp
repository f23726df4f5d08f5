// What needs no model: a file's description, a tokenizer alone, one layer's choice on given K, V, Q.
#include <algorithm>
#include <cmath>

#include "engine/gguf/gguf.h"
#include "engine/kv/select.h"
#include "engine/runtime/session.h"

namespace foveal {

const char* version() {
  return FOVEAL_VERSION;
}

FileDescription describe_file(const std::string& path) {
  const auto file = Gguf::open(path);
  FileDescription d;
  d.path = file->path();
  d.version = file->version();
  d.bytes = file->file_bytes();
  d.metadata = file->describe_metadata();
  d.warnings = file->warnings();
  for (const TensorInfo& t : file->tensors()) d.tensors.push_back({t.name, traits_of(t.type).name, t.shape(), t.bytes});
  return d;
}

std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& path) {
  return Tokenizer::load(*Gguf::open(path));
}

namespace {
void check_query(const EvictQuery& e) {
  const auto expect = [](bool ok, const char* what) {
    if (!ok) fail(ErrorCode::invalid_argument, "evict.select: ", what);
  };
  expect(e.n >= 1 && e.n <= INT32_MAX && e.head_dim >= 1, "K and V need at least one row and one element a row");
  expect(e.n_head_kv >= 1 && e.n_head >= e.n_head_kv && e.n_head % e.n_head_kv == 0,
         "the query heads must be a multiple of the KV heads");
  expect(e.window >= 1, "window must be at least 1");
  expect(e.budget > e.window + e.sinks || e.budget >= e.n, "budget must be above window + sinks");
  expect(e.kernel >= 1 && e.kernel % 2 == 1, "kernel must be odd and at least 1");
  expect(e.sinks >= 0, "sinks must not be negative");
  expect(e.n_layer >= 1 && e.il >= 0 && e.il < e.n_layer, "il must lie in 0..n_layer-1");
  expect(e.floor >= 0 && e.floor <= 1, "floor must lie in 0..1");
  expect(e.beta >= 1, "beta must be at least 1");
  expect(e.rho >= 0 && e.rho <= 1, "rho must lie in 0..1");
  expect(e.head_weight.empty() || e.head_weight.size() == static_cast<size_t>(e.n_head_kv),
         "head_weight needs one value a KV head");
  expect(
      e.head_scores.empty() || e.head_scores.size() == static_cast<size_t>(e.n_head) * static_cast<size_t>(e.n_layer),
      "head_scores needs [n_layer, n_head] values");
}
}  // namespace

std::vector<std::vector<int32_t>> evict_select(const EvictQuery& e) {
  check_query(e);
  const auto backend = make_cpu_backend(1);
  const int window = static_cast<int>(std::min<int64_t>(e.window, e.n));
  const int64_t skip = e.window - window;  // a window longer than the rows: its first queries have none
  std::vector<int32_t> index(static_cast<size_t>(e.n)), window_index(static_cast<size_t>(window));
  for (int64_t i = 0; i < e.n; ++i) index[static_cast<size_t>(i)] = static_cast<int32_t>(i);
  for (int w = 0; w < window; ++w) window_index[static_cast<size_t>(w)] = static_cast<int32_t>(e.n - window + w);
  std::vector<float> q;
  for (int ih = 0; ih < e.n_head; ++ih) {
    const float* from = e.q + (int64_t{ih} * e.window + skip) * e.head_dim;
    q.insert(q.end(), from, from + int64_t{window} * e.head_dim);
  }
  std::vector<HeadRows> heads;
  const int64_t group = e.n_head / e.n_head_kv;
  for (int64_t ih = 0; ih < e.n_head_kv; ++ih) {
    const KvHead rows{const_cast<float*>(e.k) + ih * e.n * e.head_dim, const_cast<float*>(e.v) + ih * e.n * e.head_dim,
                      e.n};
    heads.push_back({rows, index, q.data() + ih * group * window * e.head_dim});
  }
  SelectLayer layer;
  layer.il = e.il;
  layer.n_layer = e.n_layer;
  layer.n_head = e.n_head;
  layer.n_head_kv = e.n_head_kv;
  layer.head_dim = e.head_dim;
  layer.scale = 1.0f / std::sqrt(static_cast<float>(e.head_dim));
  layer.heads = heads;
  layer.window = window;
  layer.window_index = window_index;
  SelectParams p;
  p.policy = e.policy;
  p.mix = e.mix;
  p.budget = e.budget;
  p.sinks = e.sinks;
  p.kernel = e.kernel;
  p.floor = e.floor;
  p.beta = e.beta;
  p.rho = e.rho;
  p.seed = e.seed;
  p.head_weight = e.head_weight;
  p.head_scores = e.head_scores;
  return select_rows(*backend, layer, p).keep;
}

}  // namespace foveal
