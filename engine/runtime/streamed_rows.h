// The K and V rows of a layer that a GPU prefills and the CPU decodes: those of earlier turns go there, what is kept
// comes back.
#pragma once

#include <vector>

#include "engine/runtime/layer_kv.h"

namespace foveal {

class StreamedRows {
 public:
  // store: on the host, for the layers in question. ring_rows queries of `width` numbers are remembered.
  StreamedRows(Backend& gpu, KvStore& store, int64_t ring_rows, int64_t width)
      : gpu_(gpu), store_(store), queries_(ring_rows, width, &gpu) {}
  // The head's rows in the store as float32 into `to`, which is in the GPU's memory.
  void bring(int il, int ih, KvHead to);
  // The head's rows in the store become rows `slots` (ascending) of `rows`, float32 in the GPU's memory, whose token
  // indices are given. `rows` is scratch after that.
  void assign(int il, int ih, KvHead rows, std::span<const int32_t> slots, std::span<const int32_t> index);
  // Appends the last n of `rows`; they get token indices first_index, first_index + 1, ... Room must be reserved.
  void extend(int il, int ih, KvHead rows, int64_t n, int32_t first_index);
  // The queries of the layer at hand, in the GPU's memory; give_queries takes them into the host's ring.
  QueryRing& queries() { return queries_; }
  void give_queries(QueryRing& host);
  size_t bytes() const { return k_.bytes() + v_.bytes(); }  // of the host

 private:
  KvHead on_host(int64_t rows);                         // room for that many
  KvHead fetch(KvHead rows, int64_t first, int64_t n);  // rows [first, first + n) on the host

  Backend& gpu_;
  KvStore& store_;
  QueryRing queries_;
  Buffer<float> k_, v_;  // one head's
};

}  // namespace foveal
