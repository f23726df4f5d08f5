// A prompt into a session: refused before any work, or read whole; one that fails on its way leaves nothing behind.
// Its way through the layers is in prefill_layers.cpp.
#include <algorithm>

#include "engine/runtime/session.h"

namespace foveal {

// What a prefill that fails or is cancelled puts back. With eviction the layers already done have dropped rows of
// earlier turns, so those are kept beside until the end (never in a session's first prefill).
struct SessionImpl::Undo {
  Undo(SessionImpl& s, bool keep_rows)
      : session(s),
        n_rows(s.n_rows()),
        next_pos(s.next_pos_),
        evicted_before(s.evicted_before_),
        budget(s.budget_),
        system_rows(s.system_rows_),
        newest_prompt(s.newest_prompt_),
        n_images(s.seen_images_.size()),
        r(s.r_),
        kept_mass(s.kept_mass_) {
    if (n_rows == 0) return;
    rings = s.rings_;
    evict_above = s.evict_above_;
    if (s.has_logits_) logits.assign(s.logits().begin(), s.logits().end());
    if (keep_rows && (s.kv_.budget.kind != Budget::everything || s.params().n_rope_tables > 1))
      store = s.store_->clone();
  }
  void restore() {
    SessionImpl& s = session;
    if (store) {
      store->raise_peak(s.store_->peak_bytes());
      s.store_ = std::move(store);
    } else {
      s.store_->truncate(static_cast<int32_t>(n_rows));
    }
    if (n_rows > 0) {
      s.rings_ = std::move(rings);
      s.evict_above_ = std::move(evict_above);
    } else {
      for (QueryRing& ring : s.rings_) ring.drop_from(0);
    }
    s.tokens_.resize(static_cast<size_t>(n_rows));
    s.positions_.resize(static_cast<size_t>(n_rows));
    s.image_of_.resize(static_cast<size_t>(n_rows));
    s.seen_images_.resize(n_images);
    s.next_pos_ = next_pos;
    s.evicted_before_ = evicted_before;
    s.budget_ = budget;
    s.system_rows_ = system_rows;
    s.newest_prompt_ = newest_prompt;
    s.r_ = std::move(r);
    s.kept_mass_ = std::move(kept_mass);
    s.store_->note_other_bytes(0);
  }

  SessionImpl& session;
  int64_t n_rows, next_pos, evicted_before, budget, system_rows;
  std::pair<int64_t, int64_t> newest_prompt;
  size_t n_images;
  std::vector<float> r, kept_mass;
  std::vector<QueryRing> rings;
  std::vector<int64_t> evict_above;
  std::vector<float> logits;
  std::unique_ptr<KvStore> store;
};

void SessionImpl::check_cancelled() const {
  const std::atomic<bool>& flag = reader_ ? reader_->cancelled_ : cancelled_;
  if (flag.load(std::memory_order_relaxed)) fail(ErrorCode::state, "cancelled");
}

// Refuses before any work what can't fit.
void SessionImpl::check_room(const PromptRows& rows) const {
  const bool bounded_rows = kv_.on_full == OnFull::evict;
  const int64_t used = bounded_rows ? 0 : next_pos_;
  const int64_t needed = bounded_rows ? rows.size() : rows.next_pos - next_pos_;
  if (used + needed <= n_ctx_) return check_rows(rows);
  std::string hint = "; a larger n_ctx would fit";
  if (!rows.images.empty()) {
    // Positions of a picture: its rows, or with M-RoPE the larger side of its grid, which grows as the root of the
    // rows.
    double spans = 0, most_rows = 0;
    for (const PromptImage& image : rows.images) {
      const ImagePlan& plan = image.plan;
      const bool by_side = params().mrope && !bounded_rows && plan.grid_cols > 0;
      spans += by_side ? std::max(plan.grid_rows, plan.grid_cols) : plan.n_rows;
      most_rows = std::max(most_rows, static_cast<double>(plan.n_rows));
    }
    const double share = (static_cast<double>(n_ctx_ - used - needed) + spans) / spans;
    const double fits = most_rows * share * (params().mrope && !bounded_rows ? share : 1.0);
    if (share > 0 && fits >= 1) hint += cat(", or image_max_tokens=", static_cast<int64_t>(fits));
  }
  fail(ErrorCode::context_full, "the prompt needs ", needed, " positions, ", std::max<int64_t>(0, n_ctx_ - used),
       " of ", n_ctx_, " are free", hint);
}

// Under M-RoPE rows can outnumber positions many times.
void SessionImpl::check_rows(const PromptRows& rows) const {
  const int64_t most = store_->shape().max_rows - kv_.slack - 1, all = n_rows() + rows.size();
  const bool keeps_all = kv_.shadow || kv_.budget.kind == Budget::everything;
  if (!params().mrope || all <= most || !keeps_all) return;
  fail(ErrorCode::context_full, "the prompt needs ", rows.size(), " rows, ", std::max<int64_t>(0, most - n_rows()),
       " of ", most, " are free in a context of ", n_ctx_,
       " positions; a larger n_ctx or smaller pictures (image_max_tokens) would fit, or a kv budget");
}

void SessionImpl::encode_images(PromptRows& rows) {
  const Stopwatch watch;
  for (size_t i = 0; i < rows.images.size(); ++i) {
    PromptImage& image = rows.images[i];
    if (!image.rows) image.rows = embeddings_->find(image.id);
    if (image.rows) continue;
    if (progress_) progress_("encoding the picture", static_cast<float>(i) / static_cast<float>(rows.images.size()));
    const VisionEncoder& vision = model_->need_vision();
    const std::vector<Tile> tiles = vision.preprocess(image.pixels.view(), image.plan);
    image.rows = std::make_shared<Matrix>(model_->encode(tiles, image.plan, &cancelled_));
    embeddings_->put(image.id, image.rows);
    check_cancelled();
  }
  stats_.ms.image_encode += watch.ms();
}

void SessionImpl::prefill_rows(PromptRows& rows, const SessionImpl* beside) {
  if (rows.size() == 0) fail(ErrorCode::invalid_argument, "prefill: the prompt is empty, expected at least one token");
  check_room(rows);
  Undo undo(*this, beside == nullptr);
  evict_ms_ = 0;
  try {
    const auto first = static_cast<int32_t>(n_rows());
    const auto first_image = static_cast<int32_t>(seen_images_.size());
    for (PromptImage& image : rows.images) seen_images_.push_back({first + image.first_row, image.plan, image.id});
    tokens_.insert(tokens_.end(), rows.ids.begin(), rows.ids.end());
    positions_.insert(positions_.end(), rows.positions.begin(), rows.positions.end());
    for (const int32_t image : rows.image_of) image_of_.push_back(image < 0 ? -1 : first_image + image);
    next_pos_ = rows.next_pos;
    system_rows_ = std::max(system_rows_, rows.system_rows);
    newest_prompt_ = {undo.n_rows + rows.newest, n_rows()};
    budget_ = budget_rows(kv_, n_rows());  // refuses what can't work before the encoder runs
    encode_images(rows);
    const Stopwatch watch;
    run_layers(rows, (undo.store ? undo.store->bytes() : 0) + (beside ? beside->store_->bytes() : 0));
    stats_.ms.prefill += watch.ms() - evict_ms_;
  } catch (...) {
    undo.restore();
    throw;
  }
  turns_.push_back({undo.n_rows, static_cast<int64_t>(chat_messages_.size()), static_cast<int64_t>(chat_images_.size()),
                    unstepped_ ? int64_t{*unstepped_} : -1});
  prefills_.push_back({undo.n_rows, n_rows(), newest_prompt_.first});
  before_turn_.reset();
  if (undo.n_rows > 0)
    before_turn_ = BeforeTurn{undo.n_rows, undo.budget, std::move(undo.rings), std::move(undo.evict_above),
                              std::move(undo.logits)};
  unstepped_.reset();
  stats_.ms.evict += evict_ms_;
}

void SessionImpl::prefill(std::span<const Part> parts) {
  const Use use(*this);
  cancelled_.store(false);
  PromptBuilder builder(*model_->tokenizer(), model_->vision(), params());
  builder.rows.next_pos = next_pos_;
  builder.add_parts(parts, n_rows() == 0);
  stop_reply();
  stats_ = {};
  prefill_rows(builder.rows);
  chat_messages_.clear();
  chat_images_.clear();
  stats_.prompt_tokens = builder.rows.size();
  for (const PromptImage& image : builder.rows.images) stats_.image_tokens += image.plan.n_rows;
  stats_.kv = kv_stats();
}

}  // namespace foveal
