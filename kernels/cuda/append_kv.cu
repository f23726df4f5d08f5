// New rows of K and V into every head's slots behind its own length, converted to the stored type; one warp 32 numbers.
#include "kernels/cuda/stored.cuh"

namespace foveal::cuda {

namespace {

constexpr unsigned warps = 4;

// Grid: tokens; heads; K or V. k, v [T, n_kv*D].
template <RowType Type>
__global__ void append_rows(const KvHead* heads, ConstRows k, ConstRows v, int64_t head_dim) {
  const KvHead head = heads[blockIdx.y];
  const ConstRows from = blockIdx.z == 0 ? k : v;
  const float* x = from.data + blockIdx.x * from.stride + blockIdx.y * head_dim;
  auto* row =
      static_cast<uint8_t*>(blockIdx.z == 0 ? head.k : head.v) + (head.len + blockIdx.x) * row_bytes(Type, head_dim);
  const int64_t lane = threadIdx.x % 32;
  for (int64_t first = threadIdx.x / 32 * 32; first < head_dim; first += warps * 32)
    store_run<Type>(row, first, head_dim, first + lane < head_dim ? x[first + lane] : 0.0f);
}

__global__ void advance(KvHead* heads, int64_t n_heads, int64_t by) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n_heads) heads[i].len += by;
}

}  // namespace

void append_kv(const KvHead* heads, int64_t n_kv, RowType type, ConstRows k, ConstRows v, int64_t head_dim,
               Stream stream) {
  if (k.rows == 0 || n_kv == 0) return;
  const dim3 grid(static_cast<unsigned>(k.rows), static_cast<unsigned>(n_kv), 2);
  switch (type) {
#define FOVEAL_CASE(T) \
  case RowType::T:     \
    return FOVEAL_LAUNCH((append_rows<RowType::T>), grid, warps * 32, 0, stream, heads, k, v, head_dim);
    FOVEAL_STORED(FOVEAL_CASE)
#undef FOVEAL_CASE
  }
}

void advance_lengths(KvHead* heads, int64_t n_heads, int64_t by, Stream stream) {
  if (n_heads == 0) return;
  FOVEAL_LAUNCH(advance, blocks_of(n_heads, 128), 128, 0, stream, heads, n_heads, by);
}

}  // namespace foveal::cuda
