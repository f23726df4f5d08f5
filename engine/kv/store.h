// The KV cache: per layer and KV head its own rows [slot][head_dim] of K and V, each with its token index. On the host
// addresses are reserved once, pages committed as rows arrive and given back to the system after eviction; in a
// backend's own memory every head has a block that is replaced as it grows and shrinks. Token indices are on the host.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/backend/backend.h"

namespace foveal {

struct KvShape {
  int n_layer = 0, n_head_kv = 0, head_dim = 0;
  int64_t max_rows = 0;  // per head
  KvType type = KvType::F16;
};

class KvStore {
 public:
  KvStore(const KvShape& shape, Backend& backend);                // out_of_memory when the addresses can't be reserved
  KvStore(const KvShape& shape, std::vector<Backend*> backends);  // [n_layer]: whose memory a layer's rows are in
  ~KvStore();
  KvStore(const KvStore&) = delete;
  KvStore& operator=(const KvStore&) = delete;

  const KvShape& shape() const { return shape_; }
  std::span<const KvHead> heads(int il) const;
  int64_t len(int il, int ih) const;
  std::span<const int32_t> token_index(int il, int ih) const;  // ascending

  // Commits room for n more rows in every head of the layer, before append; context_full when they don't fit max_rows.
  void reserve(int il, int64_t n);
  // k, v [T, n_head_kv*D] float32 appended to all heads; rows get token indices first, first+1, ... Room must be
  // reserved.
  void append(int il, ConstMat k, ConstMat v, int32_t first_index);
  // Replaces the head's rows by rows `slots` (ascending) of src (float32 or the store's type), whose token indices are
  // given; gives back what is left over.
  void assign(int il, int ih, KvHead src, KvType src_type, std::span<const int32_t> slots,
              std::span<const int32_t> src_index);
  void compact(int il, int ih, std::span<const int32_t> slots);  // keep only these slots
  // Appends all rows of src (float32, in the memory of the layer's backend) to one head; they get token indices first,
  // first+1, ... Room must be reserved.
  void extend(int il, int ih, KvHead src, int32_t first_index);
  // Rows `slots` of a head as float32 into dst [slots][D] each, in the memory of the layer's backend.
  void read(int il, int ih, KvHead dst, std::span<const int32_t> slots) const;
  void read_out(int il, int ih, KvHead host, std::span<const int32_t> slots) const;  // the same into host memory
  // Rows of a session file: like assign() of all of src, which is host memory and of the store's type.
  void copy_in(int il, int ih, KvHead src, std::span<const int32_t> src_index);
  Backend& backend(int il) const;
  // Rows of the quantised types are held rotated (Backend::hadamard): so must the queries be that meet them, and so
  // comes out what is mixed from values.
  bool rotated() const { return shape_.type == KvType::Q8_0 || shape_.type == KvType::Q4_0; }
  void truncate(int32_t first_dropped_index);  // drop every row whose token index is >= this
  std::unique_ptr<KvStore> clone() const;

  // Memory is counted as the system gives it, in whole pages or blocks, the token indices (4 bytes a row) included.
  size_t bytes() const;       // committed now
  size_t peak_bytes() const;  // most that was ever committed, other_bytes included
  // The layer being prefilled (float32) is counted here too while it is alive.
  void note_other_bytes(size_t bytes);
  void raise_peak(size_t bytes);          // another store's peak counts for this one too
  size_t row_bytes() const;               // K and V of one row of one head, without its token index
  size_t head_bytes(int64_t rows) const;  // committed for one head of one layer that holds `rows` rows

 private:
  struct Impl;
  KvShape shape_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace foveal
