// Appending and attending, in prefill and in decode.
#include "engine/runtime/layer_kv.h"

#include <algorithm>
#include <cstring>

namespace foveal {

RingRows::RingRows(const RingRows& o) : RingRows(o.data_.size(), o.backend_) {
  if (data_.size() == 0) return;
  if (backend_) {
    backend_->copy(data_.data(), o.data_.data(), data_.bytes());
  } else {
    std::memcpy(data_.data(), o.data_.data(), data_.bytes());
  }
}

void RingRows::write(int64_t at, const float* from, int64_t n, bool from_host) {
  const auto bytes = static_cast<size_t>(n) * sizeof(float);
  if (!backend_) {
    std::memcpy(data_.data() + at, from, bytes);
  } else if (from_host) {
    backend_->copy_in(data_.data() + at, from, bytes);
  } else {
    backend_->copy(data_.data() + at, from, bytes);
  }
}

void RingRows::read(float* host, int64_t at, int64_t n) const {
  const auto bytes = static_cast<size_t>(n) * sizeof(float);
  if (backend_) {
    backend_->copy_out(host, data_.data() + at, bytes);
  } else {
    std::memcpy(host, data_.data() + at, bytes);
  }
}

void QueryRing::push(const float* q, int32_t token_index, bool from_host) {
  rows_.write(next_ * width_, q, width_, from_host);
  index_[static_cast<size_t>(next_)] = token_index;
  next_ = (next_ + 1) % capacity_;
  size_ = std::min(size_ + 1, capacity_);
}

void QueryRing::read(int64_t window, int n_head, int64_t head_dim, std::vector<float>& q,
                     std::vector<int32_t>& index) const {
  q.resize(static_cast<size_t>(window * width_));
  index.resize(static_cast<size_t>(window));
  std::vector<float> row(static_cast<size_t>(width_));
  for (int64_t w = 0; w < window; ++w) {
    const int64_t slot = (next_ + capacity_ - window + w) % capacity_;
    index[static_cast<size_t>(w)] = index_[static_cast<size_t>(slot)];
    rows_.read(row.data(), slot * width_, width_);
    for (int64_t ih = 0; ih < n_head; ++ih)
      std::copy_n(row.data() + ih * head_dim, head_dim, q.data() + (ih * window + w) * head_dim);
  }
}

void QueryRing::push_all(const QueryRing& from) {
  if (from.size_ == 0) return;
  std::vector<float> rows(from.rows_.size());
  from.rows_.read(rows.data(), 0, static_cast<int64_t>(rows.size()));
  for (int64_t i = 0; i < from.size_; ++i) {
    const int64_t slot = (from.next_ + from.capacity_ - from.size_ + i) % from.capacity_;
    push(rows.data() + slot * width_, from.index_[static_cast<size_t>(slot)]);
  }
}

void QueryRing::drop_from(int32_t token_index) {
  while (size_ > 0) {
    const int64_t newest = (next_ + capacity_ - 1) % capacity_;
    if (index_[static_cast<size_t>(newest)] < token_index) return;
    next_ = newest;
    --size_;
  }
}

void PrefillKv::attend(Mat out, ConstMat q, ConstMat k, ConstMat v) {
  const int64_t t = q.rows;
  backend_.append_kv(heads_, KvType::F32, k, v, params_.head_dim);
  if (cache_) cache_->append(il_, k, v, first_index_);
  for (KvHead& h : heads_) h.len += t;
  for (int64_t i = std::max<int64_t>(0, ring_from_ - first_index_); i < t; ++i)
    ring_.push(q.row(i), static_cast<int32_t>(first_index_ + i));
  backend_.attend_prefill(out, q, heads_, t, mask_.lo, mask_.hi, params_.head_dim, params_.attend);
}

void DecodeKv::attend(Mat out, ConstMat q, ConstMat k, ConstMat v) {
  store_->append(il_, k, v, token_index_);
  ring_->push(q.row(0), token_index_);
  std::span<const KvHead> heads = store_->heads(il_);
  const int window = params_.sliding_window[static_cast<size_t>(il_)];
  if (window > 0) {  // rows that have left the window may still lie in front: look past them
    const size_t row = store_->row_bytes() / 2;
    for (size_t ih = 0; ih < visible_.size(); ++ih) {
      const int64_t skip = std::max<int64_t>(0, heads[ih].len - window);
      visible_[ih] = {static_cast<char*>(heads[ih].k) + static_cast<size_t>(skip) * row,
                      static_cast<char*>(heads[ih].v) + static_cast<size_t>(skip) * row, heads[ih].len - skip};
    }
    heads = visible_;
  }
  if (!store_->rotated()) {
    backend_.attend_ragged(out, q, heads, store_->shape().type, params_.head_dim, params_.attend);
    return;
  }
  const Mat turned = rotated_q_.view();
  backend_.hadamard(turned, q, params_.head_dim);
  backend_.attend_ragged(out, turned, heads, store_->shape().type, params_.head_dim, params_.attend);
  backend_.hadamard(out, out, params_.head_dim);
}

}  // namespace foveal
