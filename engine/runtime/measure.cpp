// What the newest queries look at, for calibration and for maps: the measurement that eviction scores start from.
#include <algorithm>

#include "engine/backend/hadamard.h"
#include "engine/runtime/session.h"

namespace foveal {

std::vector<Matrix> SessionImpl::attention(int il, int64_t queries) const {
  const Use use(*this);
  const TextParams& p = params();
  if (il < 0 || il >= p.n_layer)
    fail(ErrorCode::invalid_argument, "attention: found layer ", il, ", expected 0 to ", p.n_layer - 1);
  if (!evictable(il))
    fail(ErrorCode::unsupported, "attention: found layer ", il, ", whose rows slide out of its window of ",
         p.sliding_window[static_cast<size_t>(il)], ", expected a layer that sees everything");
  const QueryRing& ring = rings_[static_cast<size_t>(il)];
  if (queries < 1 || queries > ring.size())
    fail(ErrorCode::invalid_argument, "attention: found ", queries, " queries, expected 1 to ", ring.size(),
         ", as many as this session remembers");
  std::vector<float> q;
  std::vector<int32_t> q_index;
  ring.read(queries, p.n_head, p.head_dim, q, q_index);
  if (store_->rotated()) hadamard(q.data(), static_cast<int64_t>(q.size()), p.head_dim);

  const int64_t group = p.n_head / p.n_head_kv;
  std::vector<int64_t> visible(q_index.size());
  std::vector<Matrix> out;
  for (int ih = 0; ih < p.n_head_kv; ++ih) {
    const auto index = store_->token_index(il, ih);
    for (size_t w = 0; w < visible.size(); ++w)
      visible[w] = std::upper_bound(index.begin(), index.end(), q_index[w]) - index.begin();
    const KvHead& head = store_->heads(il)[static_cast<size_t>(ih)];
    out.emplace_back(group * queries, head.len);
    store_->backend(il).window_attention(
        out.back().view(), ConstMat(q.data() + ih * group * queries * p.head_dim, group * queries, p.head_dim), head,
        store_->shape().type, visible, p.attend.scale, p.attend.softcap);
  }
  return out;
}

}  // namespace foveal
