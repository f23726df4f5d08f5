// Row j of dst = row slots[j] of src, for K and V: compaction in place when the types are equal, else converting.
#include "kernels/cuda/stored.cuh"

namespace foveal::cuda {

namespace {

constexpr unsigned move_threads = 1024, convert_warps = 4;

// Grid: K or V. One block moves rows in steps of its threads: a step reads all that it writes before it writes, and
// later steps read only slots behind what was written, as slots[j] >= j. Word: 16, 4 or 2 bytes that divide a row.
template <class Word>
__global__ void __launch_bounds__(move_threads)
    move_rows(KvHead dst, KvHead src, const int32_t* slots, int64_t n, int64_t words) {
  auto* to = static_cast<Word*>(blockIdx.x == 0 ? dst.k : dst.v);
  const auto* from = static_cast<const Word*>(blockIdx.x == 0 ? src.k : src.v);
  for (int64_t first = 0; first < n * words; first += blockDim.x) {
    const int64_t i = first + threadIdx.x;
    Word word{};
    if (i < n * words) word = from[slots[i / words] * words + i % words];
    __syncthreads();
    if (i < n * words) to[i] = word;
    __syncthreads();
  }
}

// Grid: rows; K or V. dst and src don't overlap.
template <RowType To, RowType From>
__global__ void convert_rows(KvHead dst, KvHead src, const int32_t* slots, int64_t head_dim) {
  const int64_t j = blockIdx.x, lane = threadIdx.x % 32;
  const auto* from =
      static_cast<const uint8_t*>(blockIdx.y == 0 ? src.k : src.v) + slots[j] * row_bytes(From, head_dim);
  auto* to = static_cast<uint8_t*>(blockIdx.y == 0 ? dst.k : dst.v) + j * row_bytes(To, head_dim);
  for (int64_t first = threadIdx.x / 32 * 32; first < head_dim; first += convert_warps * 32)
    store_run<To>(to, first, head_dim, first + lane < head_dim ? stored_at<From>(from, first + lane) : 0.0f);
}

template <RowType To>
void convert(KvHead dst, KvHead src, RowType from, const int32_t* slots, int64_t n, int64_t head_dim, Stream stream) {
  const dim3 grid(static_cast<unsigned>(n), 2);
  switch (from) {
#define FOVEAL_CASE(T)                                                                                         \
  case RowType::T:                                                                                             \
    return FOVEAL_LAUNCH((convert_rows<To, RowType::T>), grid, convert_warps * 32, 0, stream, dst, src, slots, \
                         head_dim);
    FOVEAL_STORED(FOVEAL_CASE)
#undef FOVEAL_CASE
  }
}

template <class Word>
void move(KvHead dst, KvHead src, const int32_t* slots, int64_t n, int64_t bytes, Stream stream) {
  const auto words = bytes / static_cast<int64_t>(sizeof(Word));
  FOVEAL_LAUNCH((move_rows<Word>), 2, move_threads, 0, stream, dst, src, slots, n, words);
}

}  // namespace

void gather_slots(KvHead dst, RowType dst_type, KvHead src, RowType src_type, const int32_t* slots, int64_t n,
                  int64_t head_dim, Stream stream) {
  if (n == 0) return;
  const int64_t bytes = row_bytes(src_type, head_dim);
  if (dst_type == src_type) {
    if (bytes % 16 == 0) return move<uint4>(dst, src, slots, n, bytes, stream);
    if (bytes % 4 == 0) return move<uint32_t>(dst, src, slots, n, bytes, stream);
    return move<uint16_t>(dst, src, slots, n, bytes, stream);
  }
  switch (dst_type) {
#define FOVEAL_CASE(T) \
  case RowType::T:     \
    return convert<RowType::T>(dst, src, src_type, slots, n, head_dim, stream);
    FOVEAL_STORED(FOVEAL_CASE)
#undef FOVEAL_CASE
  }
}

}  // namespace foveal::cuda
