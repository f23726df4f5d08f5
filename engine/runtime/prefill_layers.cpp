// Layer by layer prefill: all chunks of a layer, then its eviction, then the next layer. One layer's whole K and V, in
// float32, is the most that lives beside the cache.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "engine/runtime/session.h"
#include "engine/runtime/streamed_rows.h"

namespace foveal {

// x [T, n_embd]: token rows from the embedding table, picture rows from the encoder.
void SessionImpl::fill_hidden(const PromptRows& rows, Mat x) const {
  const int64_t n = rows.size();
  for (int64_t i = 0; i < n;) {
    int64_t j = i + 1;
    const int32_t image = rows.image_of[static_cast<size_t>(i)];
    while (j < n && rows.image_of[static_cast<size_t>(j)] == image) ++j;
    if (image < 0) {
      model_->text().embed(x.rows_at(i, j - i),
                           std::span(rows.ids).subspan(static_cast<size_t>(i), static_cast<size_t>(j - i)));
    } else {
      const ConstMat source = rows.images[static_cast<size_t>(image)].rows->view();
      for (int64_t k = i; k < j; ++k)
        std::memcpy(x.row(k), source.row(rows.row_in_image[static_cast<size_t>(k)]),
                    static_cast<size_t>(x.cols) * sizeof(float));
    }
    i = j;
  }
}

// Qwen3-VL: level k of a picture's rows is added to the hidden states after layer k.
void SessionImpl::add_deepstack(const PromptRows& rows, Mat x, int level, Backend& backend) const {
  if (Memory* memory = backend.memory()) {
    Matrix sum(x.rows, x.cols), there(x.rows, x.cols, memory);
    std::fill_n(sum.view().data, x.rows * x.cols, 0.0f);
    add_deepstack(rows, sum.view(), level, model_->backend());
    backend.copy_in(there.view().data, sum.view().data, sum.bytes());
    backend.add(x, there.view());
    return;
  }
  for (int64_t i = 0; i < rows.size(); ++i) {
    const int32_t image = rows.image_of[static_cast<size_t>(i)];
    if (image < 0) continue;
    const ConstMat source = rows.images[static_cast<size_t>(image)].rows->view();
    const float* extra = source.row(rows.row_in_image[static_cast<size_t>(i)]) + (level + 1) * x.cols;
    float* row = x.row(i);
    for (int64_t c = 0; c < x.cols; ++c) row[c] += extra[c];
  }
}

namespace {

// What a prefill needs in the memory of a backend: hidden states, RoPE tables, scratch, one layer's rows in float32.
struct Room {
  Room(Backend& b, const TextParams& p, int64_t rows, int64_t chunk, int64_t layer_rows)
      : backend(b),
        x(rows, p.n_embd, backend.memory()),
        scratch(p, chunk, backend.memory()),
        k(static_cast<size_t>(layer_rows * p.n_head_kv * p.head_dim), backend.memory()),
        v(k.size(), backend.memory()) {
    for (int t = 0; t < p.n_rope_tables; ++t) rope.emplace_back(rows, p.n_rot, backend.memory());
  }
  void take(const Room& from) {  // from the host's
    backend.copy_in(x.view().data, from.x.view().data, x.bytes());
    for (size_t t = 0; t < rope.size(); ++t)
      backend.copy_in(rope[t].view().data, from.rope[t].view().data, rope[t].bytes());
  }

  Backend& backend;
  Matrix x;
  std::vector<Matrix> rope;
  LayerScratch scratch;
  Buffer<float> k, v;
};

struct Chunk {
  int64_t first, count;
};

// Per row, one past the last new row that it sees, and the chunks that no two-way picture straddles.
struct Sight {
  std::vector<int32_t> end;         // [T] row index
  std::vector<int32_t> span_start;  // [T] first row of a two-way picture, or the row itself
  std::vector<Chunk> chunks;
};

Sight plan_sight(const PromptRows& rows, int64_t chunk_rows) {
  Sight s;
  const int64_t n = rows.size();
  s.end.resize(static_cast<size_t>(n));
  s.span_start.resize(static_cast<size_t>(n));
  for (int64_t i = 0; i < n;) {
    const int32_t image = rows.image_of[static_cast<size_t>(i)];
    int64_t j = i + 1;
    if (image >= 0 && rows.images[static_cast<size_t>(image)].plan.bidirectional)
      while (j < n && rows.image_of[static_cast<size_t>(j)] == image) ++j;
    for (int64_t k = i; k < j; ++k) {
      s.end[static_cast<size_t>(k)] = static_cast<int32_t>(j);
      s.span_start[static_cast<size_t>(k)] = static_cast<int32_t>(i);
    }
    i = j;
  }
  for (int64_t i = 0; i < n;) {
    int64_t stop = std::min(n, i + chunk_rows);
    stop = s.end[static_cast<size_t>(stop - 1)];
    s.chunks.push_back({i, stop - i});
    i = stop;
  }
  return s;
}

}  // namespace

// One prompt's way through the layers; all its memory is there before any work.
struct SessionImpl::LayerRun {
  // beside: bytes of the earlier turns' rows that are kept until the end.
  LayerRun(SessionImpl& session, PromptRows& rows, size_t beside);
  void run();

 private:
  void take_rooms();
  void enter_place(int il);
  void bring_past(int il);
  void see(int il);
  void compute(int il);
  void evict(int il);
  void keep_rows(int il, int ih, std::span<const int32_t> keep);
  void store_layer(int il);
  Mat last_hidden();

  bool away() const { return place->stream != nullptr; }  // on the GPU, while the layer's rows are kept on the host
  bool evicts(int il) const { return s.budget_ >= 0 && window(il) == 0; }
  int window(int il) const { return p.sliding_window[static_cast<size_t>(il)]; }
  Room& room() { return place->backend == &rooms[0].backend ? rooms[0] : rooms.back(); }

  SessionImpl& s;
  PromptRows& rows;
  const TextParams& p;
  const int64_t n, first;  // new rows, and the index of the first of them
  const Sight sight;
  const std::vector<Place> places;
  const Place* place;
  std::vector<Room> rooms;
  std::optional<StreamedRows> streamed;
  size_t layer_bytes = 0, beside;
  int64_t capacity = 0;         // rows of a layer, at most
  std::vector<KvHead> heads;    // of the layer at hand, whole, in float32
  std::vector<int32_t> lo, hi;  // per new row, what it sees of them
  std::vector<std::vector<int32_t>> index;
};

SessionImpl::LayerRun::LayerRun(SessionImpl& session, PromptRows& prompt, size_t beside_bytes)
    : s(session),
      rows(prompt),
      p(session.params()),
      n(prompt.size()),
      first(session.n_rows() - n),
      sight(plan_sight(prompt, session.chunk_rows_)),
      places(session.model_->prefill_places(n)),
      place(places.data()),
      beside(beside_bytes),
      heads(static_cast<size_t>(p.n_head_kv)),
      lo(static_cast<size_t>(n)),
      hi(static_cast<size_t>(n)),
      index(heads.size()) {
  for (int il = 0; il < p.n_layer; ++il)
    for (int ih = 0; ih < p.n_head_kv; ++ih) capacity = std::max(capacity, s.store_->len(il, ih));
  capacity += n;
  take_rooms();
  s.fill_hidden(rows, rooms[0].x.view());
  for (int table = 0; table < p.n_rope_tables; ++table)
    s.model_->text().rope_rows(rooms[0].rope[static_cast<size_t>(table)].view(), rows.positions, table);
  s.store_->note_other_bytes(layer_bytes + beside);
  if (s.budget_ >= 0) s.protect_rows(s.kv_);
}

// A backend without memory says so here.
void SessionImpl::LayerRun::take_rooms() {
  int64_t longest_chunk = 0;
  for (const Chunk& c : sight.chunks) longest_chunk = std::max(longest_chunk, c.count);
  for (const Place& at : places) {
    if (!rooms.empty() && &rooms.back().backend == at.backend) continue;
    rooms.emplace_back(*at.backend, p, n, longest_chunk, at.first < at.stop ? capacity : 0);
    layer_bytes += rooms.back().k.bytes() + rooms.back().v.bytes();
    if (at.stream) streamed.emplace(*at.backend, *s.store_, s.rings_[0].capacity(), int64_t{p.n_head} * p.head_dim);
  }
}

void SessionImpl::LayerRun::run() {
  for (int il = 0; il < p.n_layer; ++il) {
    enter_place(il);
    bring_past(il);
    see(il);
    compute(il);
    store_layer(il);
    if (away()) s.store_->note_other_bytes(layer_bytes + beside + streamed->bytes());
  }
  s.store_->note_other_bytes(0);
  s.model_->places().back().text->head(s.logits_.view(), last_hidden());
  s.has_logits_ = true;
}

// The hidden states and the weights of layer il are where it is computed.
void SessionImpl::LayerRun::enter_place(int il) {
  while (il == place->stop) {
    const Backend* before = (place++)->backend;
    if (place->backend != before) rooms.back().take(rooms[0]);  // the hidden states cross
    if (!place->stream) continue;
    place->stream->begin();
    place->stream->start(il);
  }
  if (away()) place->stream->need(il);
}

// Rows of earlier turns, as float32, ahead of the new ones.
void SessionImpl::LayerRun::bring_past(int il) {
  const int64_t head_floats = capacity * p.head_dim;
  for (size_t ih = 0; ih < heads.size(); ++ih) {
    const KvHead past = s.store_->heads(il)[ih];
    heads[ih] = {room().k.data() + static_cast<int64_t>(ih) * head_floats,
                 room().v.data() + static_cast<int64_t>(ih) * head_floats, past.len};
    const auto past_index = s.store_->token_index(il, static_cast<int>(ih));
    index[ih].assign(past_index.begin(), past_index.end());
    if (away()) {
      streamed->bring(il, static_cast<int>(ih), heads[ih]);
    } else if (past.len > 0) {
      std::vector<int32_t> slots(static_cast<size_t>(past.len));
      std::iota(slots.begin(), slots.end(), 0);
      s.store_->read(il, static_cast<int>(ih), heads[ih], slots);
    }
  }
}

// The first row that each new one sees under a sliding window.
void SessionImpl::LayerRun::see(int il) {
  if (window(il) == 0) return;
  const int64_t base = index[0].empty() ? first : index[0].front();
  for (int64_t i = 0; i < n; ++i) {
    const int64_t oldest =
        std::min<int64_t>(first + i - window(il) + 1, first + sight.span_start[static_cast<size_t>(i)]);
    lo[static_cast<size_t>(i)] = static_cast<int32_t>(std::max<int64_t>(0, oldest - base));
  }
}

void SessionImpl::LayerRun::compute(int il) {
  const bool whole = !evicts(il) && window(il) == 0;  // the cache keeps all rows, and takes them as they come
  if (whole) s.store_->reserve(il, n);
  QueryRing& ring = s.rings_[static_cast<size_t>(il)];
  Room& here = room();
  PrefillKv kv(here.backend, p, heads, away() ? streamed->queries() : ring, whole && !away() ? s.store_.get() : nullptr,
               il);
  std::vector<ConstMat> rope_views(here.rope.size());
  for (const Chunk& c : sight.chunks) {
    s.check_cancelled();
    if (s.progress_)
      s.progress_("reading the prompt", (static_cast<float>(il) + static_cast<float>(c.first) / static_cast<float>(n)) /
                                            static_cast<float>(p.n_layer));
    for (int64_t i = 0; i < c.count; ++i)
      hi[static_cast<size_t>(i)] = static_cast<int32_t>(sight.end[static_cast<size_t>(c.first + i)] - c.first);
    kv.start_chunk({window(il) > 0 ? lo.data() + c.first : nullptr, hi.data()}, static_cast<int32_t>(first + c.first),
                   static_cast<int32_t>(s.n_rows() - ring.capacity()));
    for (size_t t = 0; t < rope_views.size(); ++t)
      rope_views[t] = ConstMat(here.rope[t].view()).rows_at(c.first, c.count);
    place->text->layer(il, here.x.view().rows_at(c.first, c.count), rope_views, kv, here.scratch);
  }
  if (away()) {
    if (il + 1 < place->stop) place->stream->start(il + 1);  // before this waits for what runs
    streamed->give_queries(ring);
  }
  if (il < p.n_deepstack && !rows.images.empty()) s.add_deepstack(rows, here.x.view(), il, here.backend);
}

void SessionImpl::LayerRun::keep_rows(int il, int ih, std::span<const int32_t> keep) {
  const auto h = static_cast<size_t>(ih);
  if (away()) {
    streamed->assign(il, ih, heads[h], keep, index[h]);
  } else {
    s.store_->assign(il, ih, heads[h], KvType::F32, keep, index[h]);
  }
}

void SessionImpl::LayerRun::evict(int il) {
  const Stopwatch watch;
  const std::vector<std::span<const int32_t>> index_views(index.begin(), index.end());
  const SelectResult chosen = s.choose(room().backend, il, s.kv_, s.budget_, heads, KvType::F32, index_views);
  for (size_t ih = 0; ih < heads.size(); ++ih) keep_rows(il, static_cast<int>(ih), chosen.keep[ih]);
  int64_t before = 0;
  for (const KvHead& head : heads) before += head.len;
  s.note_choice(il, chosen, before);
  s.evict_ms_ += watch.ms();
}

// What the cache keeps of the layer: the chosen rows | a ring of the window's | all, which it has or takes from the
// GPU.
void SessionImpl::LayerRun::store_layer(int il) {
  for (auto& list : index)
    for (int64_t i = first; i < s.n_rows(); ++i) list.push_back(static_cast<int32_t>(i));
  if (evicts(il)) return evict(il);
  for (size_t ih = 0; ih < heads.size(); ++ih) {
    if (window(il) > 0) {
      const int64_t keep = std::min<int64_t>(heads[ih].len, window(il));
      std::vector<int32_t> slots(static_cast<size_t>(keep));
      std::iota(slots.begin(), slots.end(), static_cast<int32_t>(heads[ih].len - keep));
      keep_rows(il, static_cast<int>(ih), slots);
    } else if (away()) {
      streamed->extend(il, static_cast<int>(ih), heads[ih], n, static_cast<int32_t>(first));
    }
  }
}

// Of the last row, where the output matrix is.
Mat SessionImpl::LayerRun::last_hidden() {
  const Mat last = rooms.back().x.view().rows_at(n - 1, 1);
  if (&rooms.back().backend == s.model_->places().back().backend) return last;
  const Mat back = rooms[0].x.view().rows_at(n - 1, 1);
  rooms.back().backend.copy_out(back.data, last.data, static_cast<size_t>(last.cols) * sizeof(float));
  return back;
}

void SessionImpl::run_layers(PromptRows& rows, size_t beside) {
  LayerRun(*this, rows, beside).run();
}

}  // namespace foveal
