// The reply of a turn: pulled piece by piece, up to a stop string or the end.
#include <algorithm>
#include <utility>

#include "engine/runtime/session.h"

namespace foveal {

void SessionImpl::begin_reply() {
  reply_tokens_.clear();
  reply_text_.clear();
  held_.clear();
  decoder_.emplace(model_->tokenizer());
  running_ = true;
  stats_.kv = kv_stats();
}

// The conversation with the reply so far. None when the rows hold more than was shown: text held back as the possible
// start of a stop string, or half a character; then the next turn starts from what the rows and its prompt share.
std::vector<Message> SessionImpl::conversation() const {
  std::vector<Message> out = chat_messages_;
  if (!running_ || out.empty()) return out;
  if (!held_.empty() || (decoder_ && !StreamDecoder(*decoder_).finish().empty())) return {};
  Message reply{"assistant", {}};
  reply.content.push_back({ContentPart::text, reply_text_, -1});
  out.push_back(std::move(reply));
  return out;
}

void SessionImpl::finish(const char* reason) {
  chat_messages_ = conversation();
  running_ = false;
  stats_.finish_reason = reason;
  stats_.kv = kv_stats();
}

// A reply that nobody reads to its end: what has come is the reply.
void SessionImpl::stop_reply() {
  if (running_) finish("cancelled");
}

// What the decoder and the search for stop strings still hold, as the last piece.
void SessionImpl::flush(std::string& piece) {
  held_ += decoder_->finish();
  piece = std::exchange(held_, "");
  reply_text_ += piece;
}

// Moves what can't be the start of a stop string from held_ to piece; true when a stop string was met.
bool SessionImpl::take(std::string& piece) {
  size_t stop_at = std::string::npos, keep = 0;
  for (const std::string& s : options_.stop) {
    stop_at = std::min(stop_at, held_.find(s));
    for (size_t n = std::min(s.size() - 1, held_.size()); n > keep; --n)
      if (held_.compare(held_.size() - n, n, s, 0, n) == 0) {
        keep = n;
        break;
      }
  }
  if (stop_at != std::string::npos) {
    piece.append(held_, 0, stop_at);
    held_.clear();
    return true;
  }
  piece.append(held_, 0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return false;
}

bool SessionImpl::next(std::string& piece) {
  const Use use(*this);
  piece.clear();
  if (!running_) return false;
  const Stopwatch watch;
  if (cancelled_.load(std::memory_order_relaxed)) {
    finish("cancelled");
    return false;
  }
  if (options_.max_tokens >= 0 && static_cast<int64_t>(reply_tokens_.size()) >= options_.max_tokens) {
    flush(piece);
    finish("length");
    return !piece.empty();
  }
  if (unstepped_) {
    try {
      decode(*unstepped_);
    } catch (const Error& e) {
      if (e.code() != ErrorCode::context_full || kv_.on_full == OnFull::error) {
        finish("error");
        throw;
      }
      flush(piece);
      finish("context");
      return !piece.empty();
    }
    unstepped_.reset();
  }
  const int32_t token = sampler_->sample(logits(), tokens_);
  if (!options_.ignore_eos && model_->tokenizer()->is_eog(token)) {
    held_ += decoder_->finish();
    take(piece);
    piece += std::exchange(held_, "");
    reply_text_ += piece;
    decoder_.emplace(model_->tokenizer());
    stats_.ms.decode += watch.ms();
    finish("stop");
    return !piece.empty();
  }
  unstepped_ = token;
  reply_tokens_.push_back(token);
  stats_.completion_tokens = static_cast<int64_t>(reply_tokens_.size());
  held_ += decoder_->push(token);
  const bool stopped = take(piece);
  reply_text_ += piece;
  stats_.ms.decode += watch.ms();
  if (stopped) {
    finish("stop");
    chat_messages_.clear();  // the cache holds more than the reply shows
    return !piece.empty();
  }
  return true;
}

}  // namespace foveal
