// The prompt of a chat turn: what the session already holds is reused, the rest is prefilled.
#include <algorithm>
#include <utility>

#include "engine/runtime/session.h"

namespace foveal {

namespace {

bool same_text_parts(const Message& a, const Message& b) {
  if (a.role != b.role || a.content.size() != b.content.size()) return false;
  for (size_t i = 0; i < a.content.size(); ++i)
    if (a.content[i].kind != b.content[i].kind || a.content[i].value != b.content[i].value ||
        a.content[i].image_index != b.content[i].image_index)
      return false;
  return true;
}

void check_image_indices(const std::vector<Message>& messages, size_t n_images) {
  std::vector<int> used(n_images, 0);
  for (size_t m = 0; m < messages.size(); ++m)
    for (const ContentPart& part : messages[m].content) {
      if (part.kind != ContentPart::image) continue;
      if (part.image_index < 0 || static_cast<size_t>(part.image_index) >= n_images)
        fail(ErrorCode::invalid_argument, "message ", m, " refers to picture ", part.image_index, ", but ", n_images,
             " were given");
      ++used[static_cast<size_t>(part.image_index)];
    }
  for (size_t i = 0; i < n_images; ++i)
    if (used[i] == 0) fail(ErrorCode::invalid_argument, "picture ", i, " stands in no message");
}

// Rendered pieces -> rows: neighbouring texts are one text, user content never parses as control tokens. add_image is
// called with a picture's index among the caller's.
template <class AddImage>
void add_pieces(PromptBuilder& b, std::span<const PromptPiece> pieces, bool continuation, AddImage add_image) {
  std::vector<TextPiece> run;
  const auto flush = [&] {
    if (!run.empty()) b.add_text(run, continuation);
    run.clear();
    continuation = false;
  };
  for (const PromptPiece& p : pieces) {
    if (p.kind == PromptPiece::text) {
      if (!p.value.empty()) run.push_back({p.value, !p.content});
      continue;
    }
    flush();
    add_image(static_cast<size_t>(p.image_index));
  }
  flush();
}

// Index of the piece that follows what message `m` says.
size_t after_content_of(std::span<const PromptPiece> pieces, int m) {
  size_t from = 0;
  for (size_t i = 0; i < pieces.size(); ++i)
    if (pieces[i].message == m && pieces[i].content) from = i + 1;
  return from;
}

}  // namespace

void SessionImpl::begin_turn(const GenerateOptions& o) {
  if (o.max_tokens < -1)
    fail(ErrorCode::invalid_argument, "max_tokens: found ", o.max_tokens, ", expected -1 (no limit) or more");
  for (const std::string& s : o.stop)
    if (s.empty()) fail(ErrorCode::invalid_argument, "stop: found an empty string, expected text");
  auto sampler = std::make_unique<Sampler>(o.sample, params().n_vocab, model_->tokenizer()->suppressed());
  stop_reply();
  sampler_ = std::move(sampler);
  options_ = o;
  cancelled_.store(false);
  stats_ = {};
  stats_.seed = sampler_->seed();
  evictions_ = 0;
}

// Whether the new conversation is the one that the rows stand for, and more.
bool SessionImpl::continues_chat(const std::vector<Message>& messages, const std::vector<ImageId>& ids) const {
  if (chat_messages_.empty() || messages.size() <= chat_messages_.size() || ids.size() < chat_images_.size())
    return false;
  for (size_t i = 0; i < chat_messages_.size(); ++i)
    if (!same_text_parts(chat_messages_[i], messages[i])) return false;
  return std::equal(chat_images_.begin(), chat_images_.end(), ids.begin());
}

// The rows after the last assistant message that the session wrote itself: its own ids are kept, not tokenised anew.
void SessionImpl::append_continuation(const std::vector<Message>& messages, std::span<const ImageView> images) {
  const std::vector<PromptPiece> pieces = render_chat(model_->chat_template(), messages);
  const size_t from = after_content_of(pieces, static_cast<int>(chat_messages_.size()) - 1);
  PromptBuilder b(*model_->tokenizer(), model_->vision(), params());
  b.rows.next_pos = next_pos_;
  if (unstepped_) b.add_id(*unstepped_);
  add_pieces(b, std::span(pieces).subspan(from), true, [&](size_t i) { b.add_image(images[i]); });
  stats_.cached_tokens = n_rows();
  stats_.prompt_tokens = n_rows() + b.rows.size();
  for (const PromptImage& image : b.rows.images) stats_.image_tokens += image.plan.n_rows;
  for (const SeenImage& image : seen_images_) stats_.image_tokens += image.plan.n_rows;
  prefill_rows(b.rows);
}

int64_t SessionImpl::common_prefix(const PromptRows& rows) const {
  const int64_t n = std::min(rows.size(), n_rows());
  int64_t i = 0;
  for (; i < n; ++i) {
    const auto at = static_cast<size_t>(i);
    if (rows.ids[at] != tokens_[at]) break;
    if (rows.ids[at] >= 0) continue;
    const PromptImage& a = rows.images[static_cast<size_t>(rows.image_of[at])];
    const SeenImage& b = seen_images_[static_cast<size_t>(image_of_[at])];
    if (a.id != b.hash || a.first_row != b.first_row) break;
  }
  return i;
}

// Rows from the front that the session holds already and can go on from. A later row that can't be dropped exactly
// means starting over, which the stats say.
int64_t SessionImpl::reusable_rows(const PromptRows& rows) {
  int64_t n = common_prefix(rows);
  if (n == rows.size() && (n < n_rows() || !has_logits_)) --n;          // the last row must run to give logits
  if (n > 0 && n < n_rows() && image_of_[static_cast<size_t>(n)] >= 0)  // a picture goes whole
    n = seen_images_[static_cast<size_t>(image_of_[static_cast<size_t>(n)])].first_row;
  if (n < n_rows() && !can_cut_at(n)) {
    stats_.started_over = true;
    stats_.note = cat("the conversation changed at row ", n, " of ", n_rows(),
                      ", before rows that were up for eviction: everything was read again");
    n = 0;
  }
  return n;
}

namespace {

// What follows the first n rows; they split no picture.
PromptRows rows_from(PromptRows&& rows, int64_t n) {
  PromptRows rest;
  rest.next_pos = rows.next_pos;
  rest.newest = rows.newest - n;
  int dropped = 0;
  while (dropped < static_cast<int>(rows.images.size()) &&
         rows.images[static_cast<size_t>(dropped)].first_row + rows.images[static_cast<size_t>(dropped)].plan.n_rows <=
             n)
    ++dropped;
  for (int64_t i = n; i < rows.size(); ++i) {
    const auto at = static_cast<size_t>(i);
    rest.ids.push_back(rows.ids[at]);
    rest.positions.push_back(rows.positions[at]);
    rest.image_of.push_back(rows.image_of[at] < 0 ? -1 : rows.image_of[at] - dropped);
    rest.row_in_image.push_back(rows.row_in_image[at]);
  }
  for (size_t i = static_cast<size_t>(dropped); i < rows.images.size(); ++i) {
    rest.images.push_back(std::move(rows.images[i]));
    rest.images.back().first_row -= n;
  }
  return rest;
}

}  // namespace

// Prefills what the session doesn't hold yet of a conversation that begins at position 0.
void SessionImpl::read_whole(PromptRows& rows) {
  stats_.prompt_tokens = rows.size();
  for (const PromptImage& image : rows.images) stats_.image_tokens += image.plan.n_rows;
  if (rows.next_pos > n_ctx_ && kv_.on_full != OnFull::evict) check_room(rows);
  if (rows.newest == PromptRows::kUnknown) {  // the same turn again, or what follows the last one
    const int64_t known = common_prefix(rows);
    const bool again = known > newest_prompt_.first && (known < newest_prompt_.second || known == rows.size());
    rows.newest = again ? newest_prompt_.first : known;
  }
  const int64_t n = reusable_rows(rows);
  stats_.cached_tokens = n;
  // A past that is cut stays beside until the new one has been read: a failure or Ctrl-C puts it back.
  std::unique_ptr<SessionImpl> before;
  if (n < n_rows()) {
    store_->note_other_bytes(store_->bytes());
    before = std::make_unique<SessionImpl>(*this);
    store_->note_other_bytes(0);
  }
  auto messages = std::exchange(chat_messages_, {});  // the rows stand for the new conversation from here on
  auto ids = std::exchange(chat_images_, {});
  const auto unstepped = std::exchange(unstepped_, {});
  const auto system_rows = system_rows_;
  const auto newest_prompt = newest_prompt_;
  try {
    if (stats_.started_over) {
      clear();
    } else {
      cut(n);
    }
    system_rows_ = rows.system_rows;
    if (n > 0) rows = rows_from(std::move(rows), n);
    if (rows.size() > 0) {
      prefill_rows(rows, before.get());
    } else {
      turns_.push_back({n_rows(), 0, 0, -1});
      newest_prompt_ = {n + rows.newest, n_rows()};
    }
  } catch (...) {
    if (before) take_all(std::move(*before));
    chat_messages_ = std::move(messages);
    chat_images_ = std::move(ids);
    unstepped_ = unstepped;
    system_rows_ = system_rows;
    newest_prompt_ = newest_prompt;
    throw;
  }
}

// Rows of a system message and of what the template puts before it: those that its pieces alone give, too.
int64_t SessionImpl::system_rows_of(const std::vector<Message>& messages, std::span<const PromptPiece> pieces,
                                    const PromptRows& rows) const {
  if (messages[0].role != "system") return 0;
  size_t end = 0;
  for (size_t i = 0; i < pieces.size(); ++i)
    if (pieces[i].message == 0) end = i + 1;
  PromptBuilder b(*model_->tokenizer(), nullptr, params());
  b.add_bos_if_missing();
  for (const PromptPiece& p : pieces.first(end))
    if (p.kind == PromptPiece::image) return 0;
  add_pieces(b, pieces.first(end), false, [](size_t) {});
  int64_t n = 0;
  while (n < std::min(b.rows.size(), rows.size()) &&
         b.rows.ids[static_cast<size_t>(n)] == rows.ids[static_cast<size_t>(n)])
    ++n;
  return n;
}

// The row that follows the newest answer of a conversation, which its last pieces alone tell; 0 without an answer. One
// that is to be gone on with doesn't count.
int64_t SessionImpl::newest_of(const std::vector<Message>& messages, std::span<const PromptPiece> pieces,
                               const PromptRows& rows) const {
  auto answer = static_cast<int>(messages.size()) - 2;
  while (answer >= 0 && messages[static_cast<size_t>(answer)].role != "assistant") --answer;
  if (answer < 0) return 0;
  const auto tail = pieces.subspan(after_content_of(pieces, answer));
  size_t image = rows.images.size();
  for (const PromptPiece& p : tail) image -= p.kind == PromptPiece::image;
  PromptBuilder b(*model_->tokenizer(), model_->vision(), params());
  add_pieces(b, tail, true, [&](size_t) {
    const PromptImage& known = rows.images[image++];
    b.add_encoded(known.id, known.plan, nullptr);
  });
  const auto same = std::mismatch(b.rows.ids.rbegin(), b.rows.ids.rend(), rows.ids.rbegin(), rows.ids.rend());
  return rows.ids.rend() - same.second;
}

void SessionImpl::start_chat(const std::vector<Message>& messages, std::span<const ImageView> images,
                             const GenerateOptions& options) {
  const Use use(*this);
  if (messages.empty()) fail(ErrorCode::invalid_argument, "messages: found none, expected at least one");
  check_image_indices(messages, images.size());
  begin_turn(options);
  std::vector<ImageId> ids;
  for (const ImageView& image : images) ids.push_back(image_id(image, model_->need_vision()));
  if (continues_chat(messages, ids)) {
    append_continuation(messages, images);
  } else {
    PromptBuilder b(*model_->tokenizer(), model_->vision(), params());
    const std::vector<PromptPiece> pieces = render_chat(model_->chat_template(), messages);
    b.add_bos_if_missing();
    add_pieces(b, pieces, false, [&](size_t i) { b.add_image(images[i]); });
    b.rows.system_rows = system_rows_of(messages, pieces, b.rows);
    b.rows.newest = newest_of(messages, pieces, b.rows);
    read_whole(b.rows);
  }
  chat_messages_ = messages;
  chat_images_ = std::move(ids);
  begin_reply();
}

void SessionImpl::start_next(const Message& user, std::span<const ImageView> images, const GenerateOptions& options) {
  if (chat_messages_.empty()) {
    if (n_rows() > 0) fail(ErrorCode::state, "the session's rows are no chat; continue it with parts");
    start_chat({user}, images, options);
    return;
  }
  const Use use(*this);
  check_image_indices({user}, images.size());
  begin_turn(options);
  const size_t before = chat_images_.size();
  std::vector<ImageView> views(before);  // only those of the new message are looked at
  std::vector<ImageId> ids = chat_images_;
  for (const ImageView& image : images) {
    views.push_back(image);
    ids.push_back(image_id(image, model_->need_vision()));
  }
  std::vector<Message> messages = chat_messages_;
  messages.push_back(user);
  for (ContentPart& part : messages.back().content)
    if (part.kind == ContentPart::image) part.image_index += static_cast<int>(before);
  append_continuation(messages, views);
  chat_messages_ = std::move(messages);
  chat_images_ = std::move(ids);
  begin_reply();
}

void SessionImpl::start(std::span<const Part> parts, const GenerateOptions& options) {
  const Use use(*this);
  begin_turn(options);
  PromptBuilder b(*model_->tokenizer(), model_->vision(), params());
  b.rows.next_pos = next_pos_;
  if (unstepped_) b.add_id(*unstepped_);
  b.add_parts(parts, n_rows() == 0);
  stats_.prompt_tokens = b.rows.size();
  for (const PromptImage& image : b.rows.images) stats_.image_tokens += image.plan.n_rows;
  prefill_rows(b.rows);
  chat_messages_.clear();
  chat_images_.clear();
  begin_reply();
}

void SessionImpl::start_prompt(std::span<const Part> parts, const GenerateOptions& options) {
  const Use use(*this);
  begin_turn(options);
  PromptBuilder b(*model_->tokenizer(), model_->vision(), params());
  b.add_parts(parts, true);
  b.rows.newest = PromptRows::kUnknown;
  read_whole(b.rows);
  chat_messages_.clear();
  chat_images_.clear();
  begin_reply();
}

}  // namespace foveal
