// One token at a time: append, attend to what was kept, logits. Nothing is allocated on this path.
#include <algorithm>

#include "engine/runtime/session.h"

namespace foveal {
namespace {

// The calls from here to run() as one; without run() they are dropped.
class Step {
 public:
  Step(Backend& backend, StepGraph* graph) : backend_(backend), open_(graph != nullptr) {
    if (graph) backend_.begin_step(*graph);
  }
  ~Step() {
    if (open_) backend_.drop_step();
  }
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;
  void run() {
    if (open_) backend_.end_step();
    open_ = false;
  }

 private:
  Backend& backend_;
  bool open_;
};

}  // namespace

void SessionImpl::decode(int32_t token) {
  const TextParams& p = params();
  if (token < 0 || token >= p.n_vocab)
    fail(ErrorCode::invalid_argument, "token: found ", token, ", expected 0 to ", p.n_vocab - 1);
  if (kv_.on_full != OnFull::evict && next_pos_ >= n_ctx_)
    fail(ErrorCode::context_full, "the context of ", n_ctx_,
         " positions is full; a larger n_ctx, or on_full 'evict' with "
         "a budget, goes on");
  for (int il = 0; il < p.n_layer; ++il) store_->reserve(il, 1);  // refuses before anything changes
  const int64_t n = n_rows(), pos = next_pos_;
  try {
    append_token(token);
    evict_after_step();
  } catch (...) {  // the token isn't in
    drop_rows(n);
    next_pos_ = pos;
    evicted_before_ = std::min(evicted_before_, n);
    has_logits_ = false;
    throw;
  }
}

void SessionImpl::append_token(int32_t token) {
  const TextParams& p = params();
  const auto index = static_cast<int32_t>(n_rows());
  const auto at = static_cast<int32_t>(next_pos_);
  const Position pos{at, at, at};
  DecodePlace& host = decode_.front();
  host.place.text->embed(host.x.view(), std::span<const int32_t>(&token, 1));
  for (int t = 0; t < p.n_rope_tables; ++t)
    host.place.text->rope_rows(host.rope.view().rows_at(t, 1), std::span<const Position>(&pos, 1), t);
  for (DecodePlace& at_place : decode_) {
    if (&at_place != &host) {  // the hidden state crosses
      at_place.place.backend->copy_in(at_place.x.view().data, host.x.view().data, host.x.bytes());
      at_place.place.backend->copy_in(at_place.rope.view().data, host.rope.view().data, host.rope.bytes());
    }
    ConstMat rope[2];
    for (int t = 0; t < p.n_rope_tables; ++t) rope[t] = at_place.rope.view().rows_at(t, 1);
    const std::span<const ConstMat> tables(rope, static_cast<size_t>(p.n_rope_tables));
    Step step(*at_place.place.backend, at_place.step.get());
    for (int il = at_place.place.first; il < at_place.place.stop; ++il) {
      at_place.kv.start(*store_, il, index, rings_[static_cast<size_t>(il)]);
      at_place.place.text->layer(il, at_place.x.view(), tables, at_place.kv, at_place.scratch);
    }
    if (&at_place == &decode_.back()) at_place.place.text->head(logits_.view(), at_place.x.view());
    step.run();
  }
  has_logits_ = true;
  tokens_.push_back(token);
  positions_.push_back(pos);
  image_of_.push_back(-1);
  ++next_pos_;
}

void SessionImpl::step(int32_t token) {
  const Use use(*this);
  stop_reply();
  unstepped_.reset();
  chat_messages_.clear();
  decode(token);
}

}  // namespace foveal
