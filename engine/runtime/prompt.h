// The prompt as one list of rows: a token id or a row of a picture, its position, and where it came from.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/models/text_model.h"

namespace foveal {

using ImageId = std::array<uint8_t, 32>;  // decoded pixels + size + preprocessing

// A picture of the prompt: its place among the rows, and its rows once encoded.
struct PromptImage {
  ImageId id{};
  ImagePlan plan;
  Image pixels;  // a copy of the caller's
  std::shared_ptr<const Matrix> rows;
  int64_t first_row = 0;  // index in the session of the picture's first row
};

struct PromptRows {
  std::vector<int32_t> ids;         // -1 for a picture's row
  std::vector<Position> positions;  // true positions
  std::vector<int32_t> image_of;    // per row: index into images, -1 for text
  std::vector<int32_t> row_in_image;
  std::vector<PromptImage> images;
  int64_t next_pos = 0;     // position of the token after the last row
  int64_t system_rows = 0;  // rows in front that are a chat's system message
  int64_t newest = 0;       // where what is new to the conversation begins; below 0: in front of these rows
  static constexpr int64_t kUnknown = INT64_MIN;

  int64_t size() const { return static_cast<int64_t>(ids.size()); }
};

// Appends rows to a prompt, giving positions (M-RoPE: a picture's rows share t, and the next text row continues after
// the larger side of its grid).
class PromptBuilder {
 public:
  PromptBuilder(const Tokenizer& tokenizer, const VisionEncoder* vision, const TextParams& params)
      : tokenizer_(tokenizer), vision_(vision), params_(params) {}

  void add_id(int32_t id);  // invalid_argument when out of range
  void add_ids(std::span<const int32_t> ids);
  void add_text(std::span<const TextPiece> pieces, bool continuation);
  void add_image(ImageView image);
  // A picture whose rows are known: no pixels, no encoder.
  void add_encoded(const ImageId& id, const ImagePlan& plan, std::shared_ptr<const Matrix> rows);
  void add_bos_if_missing();  // at the front of an empty prompt
  void add_parts(std::span<const Part> parts, bool at_start);

  PromptRows rows;

 private:
  void add_entry(PromptImage entry);
  void add_image_rows(int image, int first, int count, int64_t origin);
  const Tokenizer& tokenizer_;
  const VisionEncoder* vision_;
  const TextParams& params_;
};

// Encoded pictures by identity, least recently used first out, at most `limit` bytes.
class EmbeddingCache {
 public:
  explicit EmbeddingCache(size_t limit_bytes) : limit_(limit_bytes) {}
  std::shared_ptr<const Matrix> find(const ImageId& id);
  void put(const ImageId& id, std::shared_ptr<const Matrix> rows);
  size_t bytes() const { return bytes_; }

 private:
  struct Entry {
    ImageId id;
    std::shared_ptr<const Matrix> rows;
  };
  std::list<Entry> entries_;
  size_t limit_, bytes_ = 0;
};

ImageId image_id(ImageView image, const VisionEncoder& vision);

}  // namespace foveal
