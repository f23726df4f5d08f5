// Taking a turn back, and reading again what a session has seen: under the same options (undo), under others (replay),
// or one picture once more (refresh). Pictures come from the embedding cache, never from the encoder.
#include <algorithm>
#include <cstring>

#include "engine/runtime/session.h"

namespace foveal {

// Every picture among the first n rows must be in the embedding cache.
void SessionImpl::check_cached(int64_t n) const {
  for (size_t i = 0; i < seen_images_.size(); ++i)
    if (seen_images_[i].first_row < n && !embeddings_->find(seen_images_[i].hash))
      fail(ErrorCode::state, "picture ", i, ": its embeddings aren't at hand (a loaded session has none; the cache ",
           "holds 256 MiB): the rows can't be read again without giving the picture");
}

// Rows [first, stop) as the prompt that they were; they split no picture.
PromptRows SessionImpl::rows_again(int64_t first, int64_t stop) const {
  PromptRows rows;
  std::vector<int32_t> local(seen_images_.size(), -1), seen(seen_images_.size(), 0);
  for (int64_t i = first; i < stop; ++i) {
    const auto at = static_cast<size_t>(i);
    const int32_t image = image_of_[at];
    rows.ids.push_back(tokens_[at]);
    rows.positions.push_back(positions_[at]);
    if (image < 0) {
      rows.image_of.push_back(-1);
      rows.row_in_image.push_back(0);
      continue;
    }
    const auto which = static_cast<size_t>(image);
    if (local[which] < 0) {
      local[which] = static_cast<int32_t>(rows.images.size());
      PromptImage entry;
      entry.id = seen_images_[which].hash;
      entry.plan = seen_images_[which].plan;
      entry.rows = embeddings_->find(entry.id);
      entry.first_row = i - first;
      rows.images.push_back(std::move(entry));
    }
    rows.image_of.push_back(local[which]);
    rows.row_in_image.push_back(seen[which]++);
  }
  rows.next_pos = stop < n_rows() ? positions_[static_cast<size_t>(stop)].t : next_pos_;
  return rows;
}

// Reads the first n rows of `from` into this empty session: prefills as they were, then the steps between them.
void SessionImpl::replay_rows(const SessionImpl& from, int64_t n) {
  const auto add_pins = [&] {
    for (std::pair<int64_t, int64_t> pin : from.pins_) {
      pin.second = std::min(pin.second, n);
      if (pin.first < pin.second && pin.second <= n_rows() && std::find(pins_.begin(), pins_.end(), pin) == pins_.end())
        pins_.push_back(pin);
    }
  };
  const auto step_to = [&](int64_t stop) {
    while (n_rows() < stop) {
      check_cancelled();
      if (progress_) progress_("reading again", static_cast<float>(n_rows()) / static_cast<float>(n));
      decode(from.tokens_[static_cast<size_t>(n_rows())]);
    }
  };
  reader_ = &from;
  progress_ = from.progress_;
  auto_rows_ = from.auto_rows_;
  system_rows_ = std::min(from.system_rows_, n);
  for (const auto& [first, stop, newest] : from.prefills_) {
    if (first >= n) break;
    step_to(first);
    add_pins();
    PromptRows rows = from.rows_again(first, std::min(stop, n));
    rows.newest = newest - first;
    prefill_rows(rows);
  }
  step_to(n);
  add_pins();
  reader_ = nullptr;
  progress_ = nullptr;
}

// The rows and what belongs to them; options, tables, sampling and the embedding cache stay.
void SessionImpl::take_rows(SessionImpl&& o) {
  o.store_->raise_peak(store_->peak_bytes());
  store_ = std::move(o.store_);
  rings_ = std::move(o.rings_);
  tokens_ = std::move(o.tokens_);
  positions_ = std::move(o.positions_);
  image_of_ = std::move(o.image_of_);
  seen_images_ = std::move(o.seen_images_);
  pins_ = std::move(o.pins_);
  system_rows_ = o.system_rows_;
  newest_prompt_ = o.newest_prompt_;
  next_pos_ = o.next_pos_;
  evicted_before_ = o.evicted_before_;
  prefills_ = std::move(o.prefills_);
  before_turn_ = std::move(o.before_turn_);
  evicted_by_hand_ = false;
  budget_ = o.budget_;
  evict_above_ = std::move(o.evict_above_);
  r_ = std::move(o.r_);
  kept_mass_ = std::move(o.kept_mass_);
  has_logits_ = o.has_logits_;
  std::memcpy(logits_.view().data, o.logits_.view().data, logits_.bytes());
}

// Everything that a fork shares with the session that it was made from, but for the conversation.
void SessionImpl::take_all(SessionImpl&& o) {
  const bool by_hand = o.evicted_by_hand_;
  take_rows(std::move(o));
  turns_ = std::move(o.turns_);
  evicted_by_hand_ = by_hand;
  auto_rows_ = o.auto_rows_;
}

UndoResult SessionImpl::undo() {
  const Use use(*this);
  if (turns_.empty()) fail(ErrorCode::state, "undo: there is no turn to take back");
  stop_reply();
  const Turn turn = turns_.back();
  const int64_t n = turn.first_row;
  UndoResult out;
  out.rows = n_rows() - n;
  const bool known = before_turn_ && before_turn_->first_row == n;
  const bool in_tail = can_cut_at(n) && (known || kv_.budget.kind == Budget::everything);
  std::vector<Turn> turns(turns_.begin(), turns_.end() - 1);
  std::vector<Message> messages = std::move(chat_messages_);
  std::vector<ImageId> chat_images = std::move(chat_images_);
  if (n == 0) {
    clear();
    out.note = "the first turn was taken back: the session is empty";
  } else if (in_tail) {
    std::optional<BeforeTurn> before = std::move(before_turn_);
    cut(n);
    if (known) {
      rings_ = std::move(before->rings);
      evict_above_ = std::move(before->evict_above);
      budget_ = before->budget;
      has_logits_ = !before->logits.empty();
      std::copy(before->logits.begin(), before->logits.end(), logits_.view().data);
    }
    out.note = cat("the last ", out.rows, " rows were dropped; nothing before them had been evicted for this turn");
  } else {
    chat_messages_ = std::move(messages);  // nothing has changed yet, should the pictures be missing
    chat_images_ = std::move(chat_images);
    check_cached(n);
    cancelled_.store(false);
    SessionImpl again(*this);
    again.clear();
    again.replay_rows(*this, n);
    out.replayed = true;
    out.note = cat("rows before this turn had been evicted since: ", n, " rows were read again",
                   evicted_by_hand_ ? "; evictions asked for by evict() were not repeated" : "");
    messages = std::move(chat_messages_);
    chat_images = std::move(chat_images_);
    take_rows(std::move(again));
  }
  turns_ = std::move(turns);
  const bool chat = turn.n_messages > 0 && static_cast<int64_t>(messages.size()) >= turn.n_messages &&
                    static_cast<int64_t>(chat_images.size()) >= turn.n_images;
  messages.resize(chat ? static_cast<size_t>(turn.n_messages) : 0);
  chat_images.resize(chat ? static_cast<size_t>(turn.n_images) : 0);
  chat_messages_ = std::move(messages);
  chat_images_ = std::move(chat_images);
  unstepped_.reset();
  if (turn.unstepped >= 0) unstepped_ = static_cast<int32_t>(turn.unstepped);
  running_ = false;
  return out;
}

void SessionImpl::refresh(int index) {
  const Use use(*this);
  if (index < 0 || static_cast<size_t>(index) >= seen_images_.size())
    fail(ErrorCode::invalid_argument, "refresh: found picture ", index, ", expected 0 to ",
         static_cast<int64_t>(seen_images_.size()) - 1);
  const SeenImage& seen = seen_images_[static_cast<size_t>(index)];
  std::shared_ptr<const Matrix> rows = embeddings_->find(seen.hash);
  if (!rows)
    fail(ErrorCode::state, "refresh: the embeddings of picture ", index, " aren't at hand; prefill the picture itself");
  PromptBuilder b(*model_->tokenizer(), model_->vision(), params());
  b.rows.next_pos = next_pos_;
  if (unstepped_) b.add_id(*unstepped_);
  b.add_encoded(seen.hash, seen.plan, std::move(rows));
  cancelled_.store(false);
  stop_reply();
  stats_ = {};
  evictions_ = 0;
  prefill_rows(b.rows);
  stats_.prompt_tokens = b.rows.size();
  stats_.image_tokens = b.rows.images[0].plan.n_rows;
  stats_.kv = kv_stats();
}

std::unique_ptr<Session> SessionImpl::replay(const KvOptions& kv) const {
  const Use use(*this);
  check_kv_options(kv);
  check_cached(n_rows());
  cancelled_.store(false);
  auto out = std::make_unique<SessionImpl>(model_, kv, n_ctx_);
  out->embeddings_ = embeddings_;
  out->chunk_rows_ = chunk_rows_;
  out->replay_rows(*this, n_rows());
  out->turns_ = turns_;
  out->chat_messages_ = conversation();
  out->chat_images_ = chat_images_;
  out->unstepped_ = unstepped_;
  out->stats_.kv = out->kv_stats();
  return out;
}

}  // namespace foveal
