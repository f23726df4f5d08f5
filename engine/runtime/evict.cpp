// The session's side of eviction: budgets in rows, what is protected, and carrying out a layer's choice.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/backend/hadamard.h"
#include "engine/gguf/gguf.h"
#include "engine/runtime/session.h"

namespace foveal {

// Rows per KV head and layer on average. Bytes: as many as leave every evictable head, slack included and rounded up to
// pages, inside; automatic: half of the memory that the system has left.
int64_t SessionImpl::budget_rows(const KvOptions& kv, int64_t total_rows) {
  if (kv.budget.kind == Budget::everything) return -1;
  int64_t heads = 0;
  std::vector<uint8_t> marked;
  const int64_t pinned = mark_pinned(kv, marked);
  for (int il = 0; il < params().n_layer; ++il) heads += evictable(il) ? params().n_head_kv : 0;
  const int64_t least = int64_t{kv.window} + kv.sinks + pinned + 1;
  const auto bytes_for = [&](int64_t rows) {
    constexpr double kUneven = 3 * 4096;  // heads share the rows unevenly: a page more in each of a head's regions
    return static_cast<double>(heads) * (static_cast<double>(store_->head_bytes(rows + kv.slack)) + kUneven);
  };
  const auto rows_for = [&](double bytes) {  // the most rows whose bytes fit
    int64_t lo = 0, hi = n_ctx_;
    while (lo < hi) {
      const int64_t mid = (lo + hi + 1) / 2;
      (bytes_for(mid) <= bytes ? lo : hi) = bytes_for(mid) <= bytes ? mid : mid - 1;
    }
    return lo;
  };
  int64_t rows = 0;
  switch (kv.budget.kind) {
    case Budget::everything:
      break;
    case Budget::rows:
      rows = static_cast<int64_t>(std::min(kv.budget.value, 1e15));
      break;
    case Budget::percent:
      rows = std::max(least, static_cast<int64_t>(std::ceil(kv.budget.value / 100 * static_cast<double>(total_rows))));
      break;
    case Budget::bytes:
      rows = rows_for(kv.budget.value);
      break;
    case Budget::automatic:
      if (auto_rows_ == 0) {  // once a session: what was chosen doesn't follow what other programs take
        auto_rows_ = std::max<int64_t>(1, rows_for(0.5 * static_cast<double>(available_for_kv())));
        stats_.note = cat("kv budget auto: ", auto_rows_, " rows per head, at most ",
                          static_cast<int64_t>(bytes_for(auto_rows_) / (1 << 20)), " MiB of ", available_for_kv() >> 20,
                          " MiB available");
      }
      rows = std::max(least, auto_rows_);
      break;
  }
  if (rows < least)
    fail(ErrorCode::invalid_argument, "kv budget: found ", rows, " rows per head, expected at least ", least,
         " (window ", kv.window, " + sinks ", kv.sinks, " + pinned ", pinned, " + 1), which takes ",
         static_cast<int64_t>(bytes_for(least)), " bytes with a slack of ", kv.slack);
  return rows;
}

// rows [n_rows]: 1 for sinks and what is pinned, by pin() or by the options. Returns how many beside the sinks.
int64_t SessionImpl::mark_pinned(const KvOptions& kv, std::vector<uint8_t>& rows) const {
  rows.assign(tokens_.size(), 0);
  const auto mark = [&](int64_t start, int64_t stop) {
    for (int64_t i = start; i < std::min(stop, n_rows()); ++i) rows[static_cast<size_t>(i)] = 1;
  };
  for (const auto& pin : pins_) mark(pin.first, pin.second);
  for (const auto& pin : kv.pin.ranges) mark(pin.first, pin.second);
  if (kv.pin.system) mark(0, system_rows_);
  for (int64_t i = newest_prompt_.first; kv.pin.last_turn && i < newest_prompt_.second; ++i)
    if (image_of_[static_cast<size_t>(i)] < 0) mark(i, i + 1);
  std::fill_n(rows.begin(), std::min<int64_t>(kv.sinks, n_rows()), uint8_t{0});
  const auto pinned = static_cast<int64_t>(std::count(rows.begin(), rows.end(), uint8_t{1}));
  mark(0, kv.sinks);
  return pinned;
}

void SessionImpl::protect_rows(const KvOptions& kv) {
  mark_pinned(kv, protected_);
  if (kv.scope == Scope::image)
    for (size_t i = 0; i < image_of_.size(); ++i)
      if (image_of_[i] < 0) protected_[i] = 1;
}

SelectResult SessionImpl::choose(Backend& backend, int il, const KvOptions& kv, int64_t budget,
                                 std::span<const KvHead> rows, KvType type,
                                 std::span<const std::span<const int32_t>> index) {
  const TextParams& p = params();
  std::vector<float> q;
  std::vector<int32_t> q_index;
  const int64_t queries = std::min<int64_t>(kv.window, rings_[static_cast<size_t>(il)].size());
  rings_[static_cast<size_t>(il)].read(queries, p.n_head, p.head_dim, q, q_index);
  if (type != KvType::F32 && store_->rotated()) hadamard(q.data(), static_cast<int64_t>(q.size()), p.head_dim);

  SelectLayer layer;
  layer.n_layer = 0;  // sliding-window layers don't count
  for (int i = 0; i < p.n_layer; ++i) layer.n_layer += evictable(i);
  for (int i = 0; i < il; ++i) layer.il += evictable(i);
  layer.n_head = p.n_head;
  layer.n_head_kv = p.n_head_kv;
  layer.head_dim = p.head_dim;
  layer.type = type;
  layer.scale = p.attend.scale;
  layer.softcap = p.attend.softcap;
  layer.window = static_cast<int>(std::min<int64_t>(kv.window, n_rows()));
  layer.window_index = q_index;
  layer.is_protected = protected_;
  std::vector<HeadRows> heads(rows.size());
  const int64_t group = p.n_head / p.n_head_kv;
  for (size_t ih = 0; ih < heads.size(); ++ih)
    heads[ih] = {rows[ih], index[ih], q.data() + static_cast<int64_t>(ih) * group * queries * p.head_dim};
  layer.heads = heads;

  SelectParams params;
  params.policy = kv.policy;
  params.mix = kv.mix;
  params.budget = budget;
  params.sinks = kv.sinks;
  params.seed = kv.seed;
  const auto head_count = static_cast<size_t>(p.n_head_kv);
  if (!table_r_.empty())
    params.head_weight = std::span(table_r_).subspan(static_cast<size_t>(il) * head_count, head_count);
  params.head_scores = table_scores_;
  SelectResult chosen = select_rows(backend, layer, params);
  if (!kv.shadow) return chosen;
  for (size_t ih = 0; ih < heads.size(); ++ih) {  // what would go stays
    chosen.keep[ih].resize(static_cast<size_t>(heads[ih].rows.len));
    std::iota(chosen.keep[ih].begin(), chosen.keep[ih].end(), 0);
  }
  return chosen;
}

// Remembers r and the kept mass, and when the layer wants its next eviction.
bool SessionImpl::note_choice(int il, const SelectResult& chosen, int64_t rows_before) {
  const auto heads = static_cast<size_t>(params().n_head_kv), layers = static_cast<size_t>(params().n_layer);
  const float nothing = std::numeric_limits<float>::quiet_NaN();
  if (r_.empty()) r_.assign(layers * heads, nothing), kept_mass_.assign(layers * heads, nothing);
  int64_t total = 0;
  for (size_t ih = 0; ih < heads; ++ih) {
    r_[static_cast<size_t>(il) * heads + ih] = ih < chosen.r.size() ? chosen.r[ih] : nothing;
    kept_mass_[static_cast<size_t>(il) * heads + ih] = ih < chosen.kept_mass.size() ? chosen.kept_mass[ih] : nothing;
    total += static_cast<int64_t>(chosen.keep[ih].size());
  }
  const bool dropped = total < rows_before;
  const auto n = static_cast<int64_t>(heads);
  evict_above_[static_cast<size_t>(il)] = (dropped ? total : std::max(total, n * budget_)) + n * kv_.slack;
  if (!dropped) return false;
  evicted_before_ = n_rows();
  ++evictions_;
  return true;
}

// Of a head of `from`, which is the own store or one that the own, empty one is filled from.
void SessionImpl::keep_rows(const KvStore& from, int il, int ih, std::span<const int32_t> slots) {
  if (&from != store_.get())
    store_->assign(il, ih, from.heads(il)[static_cast<size_t>(ih)], from.shape().type, slots, from.token_index(il, ih));
  else if (static_cast<int64_t>(slots.size()) < from.len(il, ih))
    store_->compact(il, ih, slots);
}

// Chooses in all of these layers, several at a time, then carries the choices out. Layer by layer whether rows went.
std::vector<bool> SessionImpl::evict_layers(const KvStore& from, std::span<const int> layers, const KvOptions& kv,
                                            int64_t budget) {
  std::vector<SelectResult> chosen(layers.size());
  for (size_t first = 0, end = 0; first < layers.size(); first = end) {
    Backend& backend = from.backend(layers[first]);
    while (end < layers.size() && &from.backend(layers[end]) == &backend) ++end;
    backend.for_each(static_cast<int64_t>(end - first), [&](int64_t i) {
      const size_t at = first + static_cast<size_t>(i);
      std::vector<std::span<const int32_t>> index;
      for (int ih = 0; ih < params().n_head_kv; ++ih) index.push_back(from.token_index(layers[at], ih));
      chosen[at] = choose(backend, layers[at], kv, budget, from.heads(layers[at]), from.shape().type, index);
    });
  }
  std::vector<bool> dropped;
  for (size_t at = 0; at < layers.size(); ++at) {
    int64_t before = 0;
    for (int ih = 0; ih < params().n_head_kv; ++ih) {
      before += from.len(layers[at], ih);
      keep_rows(from, layers[at], ih, chosen[at].keep[static_cast<size_t>(ih)]);
    }
    dropped.push_back(note_choice(layers[at], chosen[at], before));
  }
  return dropped;
}

void SessionImpl::evict_after_step() {
  const int n_head_kv = params().n_head_kv;
  std::vector<int> due;
  for (int il = 0; il < params().n_layer; ++il) {
    const int window = params().sliding_window[static_cast<size_t>(il)];
    if (window > 0) {  // rows that left the window go in bunches
      const int64_t len = store_->len(il, 0);
      if (len < window + 64) continue;
      std::vector<int32_t> slots(static_cast<size_t>(window));
      std::iota(slots.begin(), slots.end(), static_cast<int32_t>(len - window));
      for (int ih = 0; ih < n_head_kv; ++ih) store_->compact(il, ih, slots);
      continue;
    }
    if (budget_ < 0) continue;
    int64_t total = 0;
    for (int ih = 0; ih < n_head_kv; ++ih) total += store_->len(il, ih);
    if (total > evict_above_[static_cast<size_t>(il)]) due.push_back(il);
  }
  if (due.empty()) return;
  const Stopwatch watch;
  protect_rows(kv_);
  evict_layers(*store_, due, kv_, budget_);
  stats_.ms.evict += watch.ms();
}

KvStats SessionImpl::evict(const KvOptions& kv) {
  const Use use(*this);
  return evict_from(*store_, kv);
}

// Whether the queries that these options score by are there: a session remembers 64, or its own window's, and undo()
// forgets those of the rows that it drops.
void SessionImpl::check_queries(const KvOptions& kv) const {
  const bool scored = kv.policy != Policy::streaming && kv.policy != Policy::random && kv.window > 0;
  if (!scored || kv.budget.kind == Budget::everything) return;
  const QueryRing& ring = rings_.front();
  if (kv.window > ring.capacity() && n_rows() > ring.capacity())
    fail(ErrorCode::invalid_argument, "kv window: found ", kv.window, ", expected at most ", ring.capacity(),
         ", the queries that this session remembers; make the session with this window");
  if (ring.size() == 0)
    fail(ErrorCode::state, "evict: found no queries to score by, they went with the rows that were taken back; ",
         "prefill or step first, or choose policy streaming or random");
}

// Of the rows of `from` (see keep_rows).
KvStats SessionImpl::evict_from(const KvStore& from, const KvOptions& kv) {
  check_kv_options(kv);
  if (n_rows() == 0) fail(ErrorCode::state, "evict: the session has seen no rows yet; call prefill first");
  check_queries(kv);
  struct OwnTables {  // back in their place however this ends
    SessionImpl& session;
    std::vector<float> scores = session.table_scores_, r = session.table_r_;
    ~OwnTables() {
      session.table_scores_ = std::move(scores);
      session.table_r_ = std::move(r);
    }
  } const own_tables{*this};
  load_tables(kv);
  const int64_t budget = budget_rows(kv, n_rows());
  protect_rows(kv);
  const Stopwatch watch;
  std::vector<int> layers;
  for (int il = 0; il < params().n_layer; ++il) {
    if (budget >= 0 && evictable(il)) {
      layers.push_back(il);
    } else if (&from != store_.get()) {
      for (int ih = 0; ih < params().n_head_kv; ++ih) {
        std::vector<int32_t> all(static_cast<size_t>(from.len(il, ih)));
        std::iota(all.begin(), all.end(), 0);
        keep_rows(from, il, ih, all);
      }
    }
  }
  const std::vector<int64_t> own = evict_above_;  // still what the session's own budget calls for
  const std::vector<bool> dropped = evict_layers(from, layers, kv, budget);
  for (size_t at = 0; at < layers.size(); ++at) {
    const auto il = static_cast<size_t>(layers[at]);
    if (!dropped[at]) evict_above_[il] = own[il];
  }
  evicted_by_hand_ = evicted_by_hand_ || budget >= 0;
  stats_.ms.evict = watch.ms();
  KvStats stats = kv_stats();
  stats.budget_rows = budget;
  return stats;
}

void SessionImpl::pin(int64_t start, int64_t stop) {
  const Use use(*this);
  if (start < 0 || stop <= start || stop > n_rows())
    fail(ErrorCode::invalid_argument, "pin: found [", start, ", ", stop, "), expected 0 <= start < stop <= ", n_rows());
  pins_.emplace_back(start, stop);
  try {
    budget_rows(kv_, n_rows());
  } catch (...) {
    pins_.pop_back();
    throw;
  }
}

// A tables file is a GGUF with F32 tensors "head_scores" [n_head, n_layer] (SparseMM) and/or "head_weight"
// [n_head_kv, n_layer] (MixKV's offline r).
void SessionImpl::load_tables(const KvOptions& kv) {
  table_scores_.clear();
  table_r_.clear();
  if (kv.tables.empty()) return;
  const auto file = Gguf::open(kv.tables);
  const TextParams& p = params();
  const auto read = [&](const char* name, int heads, std::vector<float>& out) {
    if (!file->find_tensor(name)) return;
    const TensorInfo& t = file->tensor(name, {heads, p.n_layer});
    const Buffer<float> values = model_->backend().load_floats(t);
    out.assign(values.data(), values.data() + values.size());
    for (size_t i = 0; i < out.size(); ++i)
      if (!std::isfinite(out[i]))
        fail(ErrorCode::file_format, kv.tables, ": tensor '", name, "': found ", out[i], " at ", i,
             ", expected finite numbers");
  };
  read("head_scores", p.n_head, table_scores_);
  if (!table_scores_.empty()) {  // the policy counts evictable layers only
    std::vector<float> kept;
    for (int il = 0; il < p.n_layer; ++il)
      if (evictable(il))
        kept.insert(kept.end(), table_scores_.begin() + il * p.n_head, table_scores_.begin() + (il + 1) * p.n_head);
    table_scores_ = std::move(kept);
  }
  read("head_weight", p.n_head_kv, table_r_);
  if (table_scores_.empty() && table_r_.empty())
    fail(ErrorCode::file_format, kv.tables, ": found neither tensor 'head_scores' nor 'head_weight'");
}

KvStats SessionImpl::kv_stats() const {
  KvStats s;
  int64_t total = 0, heads = 0;
  size_t full = 0;
  for (int il = 0; il < params().n_layer; ++il) {
    const int window = params().sliding_window[static_cast<size_t>(il)];
    const int64_t rows = window > 0 ? std::min<int64_t>(window, n_rows()) : n_rows();
    full += static_cast<size_t>(params().n_head_kv) * store_->head_bytes(rows);
    for (int ih = 0; window == 0 && ih < params().n_head_kv; ++ih) {
      const int64_t len = store_->len(il, ih);
      s.rows_min = heads == 0 ? len : std::min(s.rows_min, len);
      s.rows_max = std::max(s.rows_max, len);
      total += len;
      ++heads;
    }
  }
  s.rows_mean = heads > 0 ? static_cast<double>(total) / static_cast<double>(heads) : 0;
  s.bytes = store_->bytes();
  s.bytes_without_eviction = full;
  s.bytes_peak = store_->peak_bytes();
  s.budget_rows = budget_;
  s.evictions = evictions_;
  s.r = r_;
  s.kept_mass = kept_mass_;
  return s;
}

}  // namespace foveal
