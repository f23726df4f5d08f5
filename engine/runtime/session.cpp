// A session's state: rows seen, what the cache holds of them, fork.
#include "engine/runtime/session.h"

#include <algorithm>
#include <cstring>

namespace foveal {

namespace {

constexpr int64_t kRingRows = 64;               // queries remembered per layer, at least
constexpr int64_t kRowsPerPosition = 8;         // M-RoPE: addresses for this many (a square of n rows takes their root)
constexpr size_t kEmbeddingBytes = 256u << 20;  // encoded pictures remembered per session

KvShape store_shape(const TextParams& p, const KvOptions& kv, int64_t n_ctx) {
  KvShape s;
  s.n_layer = p.n_layer;
  s.n_head_kv = p.n_head_kv;
  s.head_dim = p.head_dim;
  // One head may hold the shares of all heads of its layer (adakv), where rows aren't bounded by n_ctx; under M-RoPE a
  // picture has many rows a position.
  int64_t per_position = kv.on_full == OnFull::evict || p.mrope ? p.n_head_kv : 1;
  if (p.mrope) per_position = std::max(per_position, kRowsPerPosition);
  s.max_rows = n_ctx * per_position + kv.slack + 1;
  s.type = kv.dtype;
  return s;
}

}  // namespace

SessionImpl::Use::Use(const SessionImpl& s) : session_(s) {
  s.model_->check_process();
  if (s.busy_.exchange(true))
    fail(ErrorCode::state, "the session is busy with another call; one session serves one thread");
  lock_ = std::unique_lock(s.model_->compute());
}

SessionImpl::Use::~Use() {
  session_.busy_.store(false);
}

SessionImpl::DecodePlace::DecodePlace(const Place& p)
    : place(p),
      scratch(p.text->params(), 1, p.backend->memory()),
      x(1, p.text->params().n_embd, p.backend->memory()),
      rope(p.text->params().n_rope_tables, p.text->params().n_rot, p.backend->memory()),
      kv(*p.backend, p.text->params()),
      step(p.backend->make_step()) {}

SessionImpl::SessionImpl(std::shared_ptr<const ModelImpl> model, const KvOptions& kv, int64_t n_ctx)
    : model_(std::move(model)),
      kv_(kv),
      n_ctx_(n_ctx),
      store_(std::make_unique<KvStore>(store_shape(params(), kv, n_ctx), model_->layer_backends())),
      evict_above_(static_cast<size_t>(params().n_layer), 0),
      decode_(model_->places().begin(), model_->places().end()),
      logits_(1, params().n_vocab),
      embeddings_(std::make_shared<EmbeddingCache>(kEmbeddingBytes)) {
  const TextParams& p = params();
  for (int il = 0; il < p.n_layer; ++il)
    rings_.emplace_back(std::max<int64_t>(kRingRows, kv.window), int64_t{p.n_head} * p.head_dim, &store_->backend(il));
  check_gpu_room();
  load_tables(kv_);
  const auto reserve = static_cast<size_t>(std::min<int64_t>(n_ctx, 1 << 16));
  tokens_.reserve(reserve);
  positions_.reserve(reserve);
  image_of_.reserve(reserve);
}

SessionImpl::SessionImpl(const SessionImpl& o) : SessionImpl(o, o.store_->clone()) {}

SessionImpl::SessionImpl(const SessionImpl& o, std::unique_ptr<KvStore> store)
    : Session(),
      model_(o.model_),
      kv_(o.kv_),
      n_ctx_(o.n_ctx_),
      store_(std::move(store)),
      rings_(o.rings_),
      tokens_(o.tokens_),
      positions_(o.positions_),
      image_of_(o.image_of_),
      seen_images_(o.seen_images_),
      pins_(o.pins_),
      system_rows_(o.system_rows_),
      newest_prompt_(o.newest_prompt_),
      next_pos_(o.next_pos_),
      evicted_before_(o.evicted_before_),
      turns_(o.turns_),
      prefills_(o.prefills_),
      before_turn_(o.before_turn_),
      evicted_by_hand_(o.evicted_by_hand_),
      budget_(o.budget_),
      auto_rows_(o.auto_rows_),
      evict_above_(o.evict_above_),
      r_(o.r_),
      kept_mass_(o.kept_mass_),
      table_scores_(o.table_scores_),
      table_r_(o.table_r_),
      decode_(model_->places().begin(), model_->places().end()),
      logits_(1, params().n_vocab),
      has_logits_(o.has_logits_),
      chunk_rows_(o.chunk_rows_),
      embeddings_(o.embeddings_),
      unstepped_(o.unstepped_),
      chat_messages_(o.conversation()),
      chat_images_(o.chat_images_) {
  std::memcpy(logits_.view().data, o.logits_.view().data, logits_.bytes());
}

std::unique_ptr<Session> SessionImpl::fork(const KvOptions* evict) const {
  const Use use(*this);
  if (!evict) return std::make_unique<SessionImpl>(*this);
  auto empty = std::make_unique<KvStore>(store_->shape(), model_->layer_backends());
  std::unique_ptr<SessionImpl> copy(new SessionImpl(*this, std::move(empty)));
  copy->evict_from(*store_, *evict);
  return copy;
}

std::span<const float> SessionImpl::logits() const {
  if (!has_logits_)
    fail(ErrorCode::state,
         "logits: the session has seen no rows yet, or its last call failed; call prefill or step first");
  return {logits_.view().data, static_cast<size_t>(params().n_vocab)};
}

namespace {
void check_layer(int il, int n_layer) {
  if (il < 0 || il >= n_layer) fail(ErrorCode::invalid_argument, "layer: found ", il, ", expected 0 to ", n_layer - 1);
}
}  // namespace

std::vector<std::vector<int32_t>> SessionImpl::kept(int il) const {
  check_layer(il, params().n_layer);
  const int window = params().sliding_window[static_cast<size_t>(il)];
  std::vector<std::vector<int32_t>> out;
  for (int ih = 0; ih < params().n_head_kv; ++ih) {
    auto index = store_->token_index(il, ih);
    if (window > 0 && static_cast<int64_t>(index.size()) > window) index = index.last(static_cast<size_t>(window));
    out.emplace_back(index.begin(), index.end());
  }
  return out;
}

std::pair<std::vector<Matrix>, std::vector<Matrix>> SessionImpl::kv_arrays(int il) const {
  const Use use(*this);
  const auto rows = kept(il);
  std::pair<std::vector<Matrix>, std::vector<Matrix>> out;
  for (size_t ih = 0; ih < rows.size(); ++ih) {
    const int64_t len = store_->len(il, static_cast<int>(ih));
    const auto n = static_cast<int64_t>(rows[ih].size());
    Matrix k(n, params().head_dim), v(n, params().head_dim);
    std::vector<int32_t> slots(rows[ih].size());
    for (size_t j = 0; j < slots.size(); ++j) slots[j] = static_cast<int32_t>(len - n + static_cast<int64_t>(j));
    store_->read_out(il, static_cast<int>(ih), {k.view().data, v.view().data, n}, slots);
    out.first.push_back(std::move(k));
    out.second.push_back(std::move(v));
  }
  return out;
}

std::vector<SessionImage> SessionImpl::image_rows() const {
  std::vector<SessionImage> out(seen_images_.size());
  for (size_t i = 0; i < out.size(); ++i) out[i].plan = &seen_images_[i].plan;
  for (size_t i = 0; i < image_of_.size(); ++i)
    if (image_of_[i] >= 0) out[static_cast<size_t>(image_of_[i])].rows.push_back(static_cast<int32_t>(i));
  return out;
}

void SessionImpl::set_chunk_rows(int64_t n) {
  if (n < 1 || n > 1 << 20) fail(ErrorCode::invalid_argument, "chunk rows: found ", n, ", expected 1 to ", 1 << 20);
  chunk_rows_ = n;
}

void SessionImpl::clear() {
  store_->truncate(0);
  for (QueryRing& ring : rings_) ring.drop_from(0);
  tokens_.clear();
  positions_.clear();
  image_of_.clear();
  seen_images_.clear();
  pins_.clear();
  system_rows_ = 0;
  newest_prompt_ = {};
  turns_.clear();
  prefills_.clear();
  before_turn_.reset();
  r_.clear();
  kept_mass_.clear();
  next_pos_ = evicted_before_ = 0;
  evicted_by_hand_ = false;
  budget_ = -1;
  has_logits_ = false;
  unstepped_.reset();
  chat_messages_.clear();
  chat_images_.clear();
}

// Whether the rows from n on can be dropped with an exact result: they were never up for eviction, n splits no picture
// whose rows see each other both ways, and no sliding window has lost rows that n's would see.
bool SessionImpl::can_cut_at(int64_t n) const {
  if (n < evicted_before_) return false;
  if (n < n_rows() && image_of_[static_cast<size_t>(n)] >= 0) {
    const SeenImage& image = seen_images_[static_cast<size_t>(image_of_[static_cast<size_t>(n)])];
    if (n != image.first_row) return false;
  }
  for (int il = 0; il < params().n_layer; ++il) {
    const int window = params().sliding_window[static_cast<size_t>(il)];
    if (window == 0) continue;
    const auto index = store_->token_index(il, 0);
    const int64_t first = index.empty() ? n_rows() : index.front();
    if (first > std::max<int64_t>(0, n - window + 1)) return false;
  }
  return true;
}

// The rows from n on and their queries; what stands for them elsewhere is the caller's.
void SessionImpl::drop_rows(int64_t n) {
  store_->truncate(static_cast<int32_t>(n));
  for (QueryRing& ring : rings_) ring.drop_from(static_cast<int32_t>(n));
  tokens_.resize(static_cast<size_t>(n));
  positions_.resize(static_cast<size_t>(n));
  image_of_.resize(static_cast<size_t>(n));
}

void SessionImpl::cut(int64_t n) {
  if (n >= n_rows()) return;
  // A picture is cut at its first row only, whose time position is the picture's origin; so both give the position.
  next_pos_ = positions_[static_cast<size_t>(n)].t;
  drop_rows(n);
  while (!seen_images_.empty() && seen_images_.back().first_row >= n) seen_images_.pop_back();
  for (auto& pin : pins_) pin.second = std::min(pin.second, n);
  std::erase_if(pins_, [](const auto& pin) { return pin.first >= pin.second; });
  for (Prefill& prefill : prefills_) prefill.stop = std::min(prefill.stop, n);
  std::erase_if(prefills_, [](const Prefill& prefill) { return prefill.first >= prefill.stop; });
  system_rows_ = std::min(system_rows_, n);
  newest_prompt_ = {};
  if (!prefills_.empty()) newest_prompt_ = {std::min(prefills_.back().newest, n), prefills_.back().stop};
  std::erase_if(turns_, [&](const Turn& turn) { return turn.first_row >= n; });
  before_turn_.reset();
  has_logits_ = false;
  unstepped_.reset();
}

}  // namespace foveal
