// The rows, pictures and turns of a session file: every value is checked against the others before it is used.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/runtime/session.h"
#include "engine/runtime/state_io.h"

namespace foveal {

void SessionImpl::read_rows(StateReader& in) {
  constexpr uint64_t kMostRows = uint64_t{1} << 31;
  tokens_ = in.list<int32_t>("tokens", kMostRows);
  positions_ = in.list<Position>("positions", kMostRows);
  image_of_ = in.list<int32_t>("picture of each row", kMostRows);
  if (positions_.size() != tokens_.size())
    in.bad("positions", static_cast<int64_t>(positions_.size()), n_rows(), n_rows());
  if (image_of_.size() != tokens_.size())
    in.bad("picture of each row", static_cast<int64_t>(image_of_.size()), n_rows(), n_rows());
  read_images(in);
  const int64_t n_pins = in.number("pins", 0, n_rows());
  for (int64_t i = 0; i < n_pins; ++i) {
    const int64_t start = in.number("start of a pin", 0, n_rows() - 1);
    pins_.emplace_back(start, in.number("end of a pin", start + 1, n_rows()));
  }
  system_rows_ = in.number("rows of the system message", 0, n_rows());
  newest_prompt_.first = in.number("first row of the newest prompt", 0, n_rows());
  newest_prompt_.second = in.number("end of the newest prompt", newest_prompt_.first, n_rows());
  next_pos_ = in.number("next position", 0, int64_t{1} << 31);
  check_positions(in);
  evicted_before_ = in.number("last eviction", 0, n_rows());
  const bool everything = kv_.budget.kind == Budget::everything;
  budget_ = in.number("budget in rows", -1, everything ? -1 : int64_t{1} << 40);
  const int64_t least = int64_t{kv_.window} + kv_.sinks + 1;
  if (budget_ >= 0 && budget_ < least) in.bad("budget in rows", budget_, least, int64_t{1} << 40);
  auto_rows_ = in.number("rows of budget 'auto'", 0, int64_t{1} << 40);
  evicted_by_hand_ = in.value<uint8_t>() != 0;
  read_turns(in);
}

// Every picture's rows are those that its plan says, in order.
void SessionImpl::read_images(StateReader& in) {
  const int64_t n_images = in.number("pictures", 0, n_rows());
  for (int64_t i = 0; i < n_images; ++i) {
    SeenImage image;
    image.first_row = in.number("first row of a picture", 0, n_rows() - 1);
    const auto width = static_cast<int>(in.number("width of a picture", 1, kMaxImageSide));
    const auto height = static_cast<int>(in.number("height of a picture", 1, kMaxImageSide));
    std::memcpy(image.hash.data(), in.take(32), 32);
    image.plan = model_->need_vision().plan(width, height);
    seen_images_.push_back(std::move(image));
  }
  std::vector<int64_t> count(static_cast<size_t>(n_images), 0);
  int32_t newest = -1;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const int32_t token = tokens_[i], image = image_of_[i];
    if (token < -1 || token >= params().n_vocab) in.bad("token", token, -1, params().n_vocab - 1);
    if ((token < 0) != (image >= 0))
      in.bad("picture of a row", image, token < 0 ? 0 : -1, token < 0 ? n_images - 1 : -1);
    if (image < 0) continue;
    if (image < newest || image > newest + 1 || image >= n_images)
      in.bad("picture of a row", image, newest, std::min<int64_t>(newest + 1, n_images - 1));
    const SeenImage& seen = seen_images_[static_cast<size_t>(image)];
    if (image > newest && seen.first_row != static_cast<int64_t>(i))
      in.bad("first row of a picture", seen.first_row, static_cast<int64_t>(i), static_cast<int64_t>(i));
    newest = image;
    ++count[static_cast<size_t>(image)];
  }
  for (size_t i = 0; i < count.size(); ++i)
    if (count[i] != seen_images_[i].plan.n_rows)
      in.bad("rows of a picture", count[i], seen_images_[i].plan.n_rows, seen_images_[i].plan.n_rows);
}

// Positions follow from the rows: text counts on; under M-RoPE a picture spans its grid from one origin.
void SessionImpl::check_positions(const StateReader& in) const {
  int64_t next = 0, row_in_image = 0;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const int32_t image = image_of_[i];
    Position expected;
    const ImagePlan* plan = image < 0 ? nullptr : &seen_images_[static_cast<size_t>(image)].plan;
    if (plan && params().mrope && plan->grid_cols > 0) {
      row_in_image =
          seen_images_[static_cast<size_t>(image)].first_row == static_cast<int64_t>(i) ? 0 : row_in_image + 1;
      expected = {static_cast<int32_t>(next), static_cast<int32_t>(next + row_in_image / plan->grid_cols),
                  static_cast<int32_t>(next + row_in_image % plan->grid_cols)};
      if (row_in_image + 1 == plan->n_rows) next += std::max(plan->grid_rows, plan->grid_cols);
    } else {
      expected.t = expected.h = expected.w = static_cast<int32_t>(next++);
    }
    const Position p = positions_[i];
    if (p.t != expected.t) in.bad("position", p.t, expected.t, expected.t);
    if (p.h != expected.h) in.bad("position", p.h, expected.h, expected.h);
    if (p.w != expected.w) in.bad("position", p.w, expected.w, expected.w);
  }
  if (next_pos_ != next) in.bad("next position", next_pos_, next, next);
}

void SessionImpl::read_turns(StateReader& in) {
  const int64_t n_turns = in.number("turns", 0, n_rows() + 1);
  for (int64_t i = 0, last = 0; i < n_turns; ++i) {
    Turn turn;
    turn.first_row = last = in.number("first row of a turn", last, n_rows());
    turn.n_messages = in.number("messages before a turn", 0, 1 << 20);
    turn.n_images = in.number("pictures before a turn", 0, 1 << 20);
    turn.unstepped = in.number("pending token of a turn", -1, params().n_vocab - 1);
    if (turn.first_row < n_rows() && image_of_[static_cast<size_t>(turn.first_row)] >= 0 &&
        seen_images_[static_cast<size_t>(image_of_[static_cast<size_t>(turn.first_row)])].first_row != turn.first_row)
      in.bad("first row of a turn", turn.first_row, 0, 0);
    turns_.push_back(turn);
  }
  const int64_t n_prefills = in.number("prefills", 0, n_rows());
  for (int64_t i = 0, last = 0; i < n_prefills; ++i) {
    const int64_t first = in.number("first row of a prefill", last, n_rows() - 1);
    last = in.number("end of a prefill", first + 1, n_rows());
    prefills_.push_back({first, last, in.number("first row of a turn's prompt", 0, last)});
  }
  // What is in no prefill was stepped: no picture's rows.
  size_t k = 0;
  for (int64_t i = 0; i < n_rows(); ++i) {
    while (k < prefills_.size() && prefills_[k].stop <= i) ++k;
    const bool prefilled = k < prefills_.size() && i >= prefills_[k].first;
    const int32_t image = image_of_[static_cast<size_t>(i)];
    if (!prefilled && image >= 0) in.bad("picture row outside of every prefill", i, 0, 0);
    if (prefilled && image >= 0 && seen_images_[static_cast<size_t>(image)].first_row < prefills_[k].first)
      in.bad("first row of a prefill", prefills_[k].first, 0, seen_images_[static_cast<size_t>(image)].first_row);
  }
  const auto layers = static_cast<uint64_t>(params().n_layer);
  table_scores_ = in.list<float>("head scores", layers * static_cast<uint64_t>(params().n_head));
  table_r_ = in.list<float>("head weights", layers * static_cast<uint64_t>(params().n_head_kv));
  uint64_t counted = 0;
  for (int il = 0; il < params().n_layer; ++il) counted += evictable(il);
  const uint64_t scores = counted * static_cast<uint64_t>(params().n_head);
  const uint64_t weights = layers * static_cast<uint64_t>(params().n_head_kv);
  if (table_scores_.size() != (table_scores_.empty() ? 0 : scores) ||
      (kv_.policy == Policy::sparsemm && table_scores_.empty()))
    in.bad("head scores", static_cast<int64_t>(table_scores_.size()), 0, static_cast<int64_t>(scores));
  if (!table_r_.empty() && table_r_.size() != weights)
    in.bad("head weights", static_cast<int64_t>(table_r_.size()), 0, static_cast<int64_t>(weights));
  for (const std::vector<float>* table : {&table_scores_, &table_r_})
    if (!std::all_of(table->begin(), table->end(), [](float x) { return std::isfinite(x); }))
      in.bad("numbers of a table that aren't finite", 1, 0, 0);
}

}  // namespace foveal
