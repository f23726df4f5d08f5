// Builds the list of rows that a prompt is.
#include "engine/runtime/prompt.h"

#include <algorithm>
#include <cstring>

namespace foveal {

ImageId image_id(ImageView image, const VisionEncoder& vision) {
  // The preprocessing is folded in by hashing a one-row picture of (pixel hash, its description).
  const auto pixels = image_hash(image);
  const std::string how = vision.preprocessing_id();
  std::vector<uint8_t> both(pixels.begin(), pixels.end());
  both.insert(both.end(), how.begin(), how.end());
  both.resize((both.size() + 2) / 3 * 3);
  const int width = static_cast<int>(both.size() / 3);
  return image_hash({both.data(), width, 1, int64_t{3} * width});
}

void PromptBuilder::add_id(int32_t id) {
  if (id < 0 || id >= params_.n_vocab)
    fail(ErrorCode::invalid_argument, "token id at index ", rows.size(), ": found ", id, ", expected 0..",
         params_.n_vocab - 1);
  const auto p = static_cast<int32_t>(rows.next_pos++);
  rows.ids.push_back(id);
  rows.positions.push_back({p, p, p});
  rows.image_of.push_back(-1);
  rows.row_in_image.push_back(0);
}

void PromptBuilder::add_ids(std::span<const int32_t> ids) {
  for (const int32_t id : ids) add_id(id);
}

void PromptBuilder::add_text(std::span<const TextPiece> pieces, bool continuation) {
  add_ids(tokenizer_.encode(pieces, continuation));
}

void PromptBuilder::add_image_rows(int image, int first, int count, int64_t origin) {
  const ImagePlan& plan = rows.images[static_cast<size_t>(image)].plan;
  for (int r = first; r < first + count; ++r) {
    Position p;
    if (params_.mrope && plan.grid_cols > 0) {
      p.t = static_cast<int32_t>(origin);
      p.h = static_cast<int32_t>(origin + r / plan.grid_cols);
      p.w = static_cast<int32_t>(origin + r % plan.grid_cols);
    } else {
      p.t = p.h = p.w = static_cast<int32_t>(rows.next_pos++);
    }
    rows.ids.push_back(-1);
    rows.positions.push_back(p);
    rows.image_of.push_back(image);
    rows.row_in_image.push_back(r);
  }
  if (params_.mrope && plan.grid_cols > 0) rows.next_pos = origin + std::max(plan.grid_rows, plan.grid_cols);
}

void PromptBuilder::add_image(ImageView image) {
  if (!vision_)
    fail(ErrorCode::invalid_argument, "the prompt holds a picture, but the model was loaded without an mmproj file");
  check_image_size(image.width, image.height);
  PromptImage entry;
  entry.plan = vision_->plan(image.width, image.height);
  entry.id = image_id(image, *vision_);
  entry.pixels.width = image.width;
  entry.pixels.height = image.height;
  const size_t line = size_t{3} * static_cast<size_t>(image.width);
  entry.pixels.rgb.resize(line * static_cast<size_t>(image.height));
  for (int y = 0; y < image.height; ++y)
    std::memcpy(entry.pixels.rgb.data() + line * static_cast<size_t>(y), image.rgb + y * image.stride, line);
  add_entry(std::move(entry));
}

void PromptBuilder::add_encoded(const ImageId& id, const ImagePlan& plan, std::shared_ptr<const Matrix> encoded) {
  PromptImage entry;
  entry.id = id;
  entry.plan = plan;
  entry.rows = std::move(encoded);
  add_entry(std::move(entry));
}

// Wrapping text and rows as the family has them.
void PromptBuilder::add_entry(PromptImage entry) {
  const int index = static_cast<int>(rows.images.size());
  rows.images.push_back(std::move(entry));
  const ImagePlan plan = rows.images.back().plan;
  bool first = true;
  for (const ImagePiece& piece : plan.pieces) {
    if (piece.n_rows == 0) {
      const TextPiece text{piece.text, true};
      add_text(std::span<const TextPiece>(&text, 1), true);
      continue;
    }
    if (first) rows.images.back().first_row = rows.size();
    first = false;
    add_image_rows(index, piece.first_row, piece.n_rows, rows.next_pos);
  }
}

void PromptBuilder::add_bos_if_missing() {
  const auto bos = tokenizer_.bos();
  if (tokenizer_.add_bos() && bos && rows.ids.empty()) add_id(*bos);
}

void PromptBuilder::add_parts(std::span<const Part> parts, bool at_start) {
  for (size_t i = 0; i < parts.size();) {
    if (const auto* ids = std::get_if<std::vector<int32_t>>(&parts[i])) {
      add_ids(*ids);
      ++i;
    } else if (const auto* image = std::get_if<ImageView>(&parts[i])) {
      if (at_start) add_bos_if_missing();
      add_image(*image);
      ++i;
    } else {
      std::vector<TextPiece> run;  // neighbouring texts are one text
      while (i < parts.size() && std::holds_alternative<TextPiece>(parts[i]))
        run.push_back(std::get<TextPiece>(parts[i++]));
      const std::vector<int32_t> ids = tokenizer_.encode(run, false);
      const bool has_bos = !ids.empty() && tokenizer_.bos() && ids[0] == *tokenizer_.bos();
      if (at_start && !has_bos) add_bos_if_missing();
      add_ids(ids);
    }
    at_start = at_start && rows.ids.empty();
  }
}

std::shared_ptr<const Matrix> EmbeddingCache::find(const ImageId& id) {
  for (auto it = entries_.begin(); it != entries_.end(); ++it) {
    if (it->id != id) continue;
    entries_.splice(entries_.begin(), entries_, it);
    return entries_.front().rows;
  }
  return nullptr;
}

void EmbeddingCache::put(const ImageId& id, std::shared_ptr<const Matrix> rows) {
  if (rows->bytes() > limit_ || find(id)) return;
  bytes_ += rows->bytes();
  entries_.push_front({id, std::move(rows)});
  while (bytes_ > limit_) {
    bytes_ -= entries_.back().rows->bytes();
    entries_.pop_back();
  }
}

}  // namespace foveal
