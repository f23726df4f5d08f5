// How a layer appends and attends: while prefilling (one layer whole, in float32) and while decoding (the KV cache).
#pragma once

#include <vector>

#include "engine/kv/store.h"
#include "engine/models/text_model.h"

namespace foveal {

// float32 numbers in a backend's memory (nullptr: the host's) that can be copied.
class RingRows {
 public:
  RingRows(size_t n, Backend* backend) : backend_(backend), data_(n, backend ? backend->memory() : nullptr) {}
  RingRows(const RingRows& o);
  RingRows(RingRows&&) noexcept = default;
  RingRows& operator=(const RingRows& o) { return *this = RingRows(o); }
  RingRows& operator=(RingRows&&) noexcept = default;
  size_t bytes() const { return data_.bytes(); }
  void write(int64_t at, const float* from, int64_t n, bool from_host);
  void read(float* host, int64_t at, int64_t n) const;
  size_t size() const { return data_.size(); }

 private:
  Backend* backend_;
  Buffer<float> data_;
};

// The last queries of a layer, for scoring evictions: a ring of [n_head * D] rows, each with its token index.
class QueryRing {
 public:
  QueryRing(int64_t capacity, int64_t width, Backend* backend = nullptr)
      : rows_(static_cast<size_t>(capacity * width), backend),
        index_(static_cast<size_t>(capacity)),
        capacity_(capacity),
        width_(width) {}
  // q [n_head * D] in the memory of the layer's backend, or of the host.
  void push(const float* q, int32_t token_index, bool from_host = false);
  int64_t size() const { return size_; }
  int64_t capacity() const { return capacity_; }
  // The newest `window` queries (window <= size) as [n_head][window][D] with their token indices, ascending.
  void read(int64_t window, int n_head, int64_t head_dim, std::vector<float>& q, std::vector<int32_t>& index) const;
  void drop_from(int32_t token_index);  // forget queries of this and later tokens
  // Pushes all queries of a ring in another backend's memory, oldest first; this one's are on the host.
  void push_all(const QueryRing& from);
  size_t bytes() const { return rows_.bytes() + index_.size() * sizeof(int32_t); }

 private:
  RingRows rows_;
  std::vector<int32_t> index_;
  int64_t capacity_, width_, next_ = 0, size_ = 0;
};

// What a chunk's rows see: per row, the first visible row of the head (nullptr: all) and one past the last new row.
struct ChunkMask {
  const int32_t* lo = nullptr;
  const int32_t* hi = nullptr;
};

// One layer of a prefill. Heads hold [past | new] rows in float32, room for past + all new rows.
class PrefillKv final : public LayerKv {
 public:
  // cache: takes the rows as they come when nothing will be evicted from this layer; nullptr otherwise.
  PrefillKv(Backend& backend, const TextParams& p, std::span<KvHead> heads, QueryRing& ring, KvStore* cache, int il)
      : backend_(backend), params_(p), heads_(heads), ring_(ring), cache_(cache), il_(il) {}
  // Before each chunk: its mask, the token index of its first row, and the first row whose query is remembered.
  void start_chunk(ChunkMask mask, int32_t first_index, int32_t ring_from) {
    mask_ = mask;
    first_index_ = first_index;
    ring_from_ = ring_from;
  }
  void attend(Mat out, ConstMat q, ConstMat k, ConstMat v) override;

 private:
  Backend& backend_;
  const TextParams& params_;
  std::span<KvHead> heads_;
  QueryRing& ring_;
  KvStore* cache_;
  int il_;
  ChunkMask mask_;
  int32_t first_index_ = 0, ring_from_ = 0;
};

// One decoded token on the KV cache.
class DecodeKv final : public LayerKv {
 public:
  DecodeKv(Backend& backend, const TextParams& p)
      : backend_(backend), params_(p), rotated_q_(1, int64_t{p.n_head} * p.head_dim, backend.memory()) {
    visible_.resize(static_cast<size_t>(p.n_head_kv));
  }
  void start(KvStore& store, int il, int32_t token_index, QueryRing& ring) {
    store_ = &store;
    il_ = il;
    token_index_ = token_index;
    ring_ = &ring;
  }
  void attend(Mat out, ConstMat q, ConstMat k, ConstMat v) override;

 private:
  Backend& backend_;
  const TextParams& params_;
  KvStore* store_ = nullptr;
  std::vector<KvHead> visible_;
  Matrix rotated_q_;
  QueryRing* ring_ = nullptr;
  int il_ = 0;
  int32_t token_index_ = 0;
};

}  // namespace foveal
