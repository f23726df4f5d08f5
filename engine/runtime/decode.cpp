// One token at a time: append, attend to what was kept, logits. Nothing is allocated on this path.
#include "engine/runtime/session.h"

namespace foveal {

void SessionImpl::decode(int32_t token) {
  const TextParams& p = params();
  if (token < 0 || token >= p.n_vocab)
    fail(ErrorCode::invalid_argument, "token: found ", token, ", expected 0 to ", p.n_vocab - 1);
  if (kv_.on_full != OnFull::evict && next_pos_ >= n_ctx_)
    fail(ErrorCode::context_full, "the context of ", n_ctx_,
         " positions is full; a larger n_ctx, or on_full 'evict' with "
         "a budget, goes on");
  for (int il = 0; il < p.n_layer; ++il) store_->reserve(il, 1);  // refuses before anything changes

  const auto index = static_cast<int32_t>(n_rows());
  const auto at = static_cast<int32_t>(next_pos_);
  const Position pos{at, at, at};
  const TextModel& text = model_->text();
  const Mat x = x_.view();
  text.embed(x, std::span<const int32_t>(&token, 1));
  ConstMat rope[2];
  for (int t = 0; t < p.n_rope_tables; ++t) {
    const Mat row = rope_.view().rows_at(t, 1);
    text.rope_rows(row, std::span<const Position>(&pos, 1), t);
    rope[t] = row;
  }
  const std::span<const ConstMat> tables(rope, static_cast<size_t>(p.n_rope_tables));
  for (int il = 0; il < p.n_layer; ++il) {
    decode_kv_.start(*store_, il, index, rings_[static_cast<size_t>(il)]);
    text.layer(il, x, tables, decode_kv_, scratch_);
  }
  text.head(logits_.view(), x);
  has_logits_ = true;
  tokens_.push_back(token);
  positions_.push_back(pos);
  image_of_.push_back(-1);
  ++next_pos_;
  evict_after_step();
}

void SessionImpl::step(int32_t token) {
  const Use use(*this);
  running_ = false;
  unstepped_.reset();
  chat_messages_.clear();
  decode(token);
}

}  // namespace foveal
