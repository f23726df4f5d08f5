// A layer's prefill attention: T new queries against every head's own past and the new rows.
#include "kernels/cuda/flash.cuh"

namespace foveal::cuda {

void attend_prefill(Rows out, ConstRows q, const KvHead* heads, int64_t n_kv, const int32_t* lo, const int32_t* hi,
                    int64_t head_dim, float scale, float softcap, Stream stream) {
  if (q.rows == 0) return;
  const Flash p{out, q, heads, {}, {}, q.cols / head_dim / n_kv, head_dim, lo, hi, scale, softcap};
  flash(p, n_kv, stream);
}

}  // namespace foveal::cuda
