// Plans, pixels and rows of every family for ordinary and extreme picture sizes; limits on rows; cancelling.
#include <cmath>
#include <numeric>

#include "tests/check.h"
#include "tests/vision/mmproj.h"

using namespace foveal;
using mmproj::Loaded;

namespace {

struct Size {
  int width, height;
};

Image noise(int width, int height) {
  Image image{.rgb = std::vector<uint8_t>(static_cast<size_t>(width) * static_cast<size_t>(height) * 3),
              .width = width,
              .height = height};
  uint32_t state = 7;
  for (uint8_t& v : image.rgb) v = static_cast<uint8_t>((state = state * 1664525u + 1013904223u) >> 24);
  return image;
}

double area(const ImagePlan& p) {
  return std::accumulate(p.boxes.begin(), p.boxes.end(), 0.0,
                         [](double sum, const Box& b) { return sum + double(b.x1 - b.x0) * (b.y1 - b.y0); });
}

// What every plan promises, whatever the family.
void check_plan(const ImagePlan& p, Size size) {
  CHECK_EQ(p.width, size.width);
  CHECK_EQ(p.height, size.height);
  CHECK(p.n_rows > 0);
  CHECK(p.scratch_bytes > 0);
  CHECK_EQ(p.boxes.size(), static_cast<size_t>(p.n_rows));
  int next = 0;
  for (const ImagePiece& piece : p.pieces) {
    if (piece.n_rows == 0) {
      CHECK(!piece.text.empty());
      continue;
    }
    CHECK_EQ(piece.first_row, next);
    next += piece.n_rows;
  }
  CHECK_EQ(next, p.n_rows);
  bool inside = true;
  for (const Box& b : p.boxes) {
    inside =
        inside && 0 <= b.x0 && b.x0 <= b.x1 && b.x1 <= size.width && 0 <= b.y0 && b.y0 <= b.y1 && b.y1 <= size.height;
  }
  CHECK(inside);
}

void check_rows(const Loaded& loaded, Size size) {
  const ImagePlan p = loaded->plan(size.width, size.height);
  check_plan(p, size);
  const Image image = noise(size.width, size.height);
  const auto tiles = loaded->preprocess(image.view(), p);
  CHECK_EQ(tiles.size(), static_cast<size_t>(p.n_tiles));
  if (p.n_rows > 1000) return;  // attention over all rows takes too long for a test
  const Matrix rows = loaded->encode(tiles, p, nullptr);
  CHECK_EQ(rows.rows(), int64_t{p.n_rows});
  CHECK_EQ(rows.cols(), int64_t{loaded->row_width()});
  bool finite = true;
  for (int64_t i = 0; i < rows.rows() * rows.cols(); ++i) finite = finite && std::isfinite(rows.view().data[i]);
  CHECK(finite);
}

constexpr Size kOrdinary[] = {{17, 11}, {11, 17}, {8, 8}, {40, 9}, {64, 48}};
constexpr Size kExtreme[] = {{1, 1}, {1, 200}, {200, 1}, {3, 600}, {16384, 128}};
constexpr Size kThin[] = {{16384, 1}, {1, 16384}};
constexpr Size kTooLarge[] = {{20000, 1}, {1, 20000}, {2, 65535}, {16384, 16384}, {0, 5}, {5, 0}, {-1, 1}};

}  // namespace

TEST(every_family_runs_every_size) {
  for (const std::string& family : mmproj::families()) {
    const Loaded loaded(family);
    for (const Size s : kOrdinary) check_rows(loaded, s);
    for (const Size s : kExtreme) check_rows(loaded, s);
    for (const Size s : kTooLarge) CHECK_THROWS(Error, "picture of", loaded->plan(s.width, s.height));
    for (const Size s : kThin) {
      if (family.starts_with("qwen")) {
        CHECK_THROWS(Error, "at most 200:1", loaded->plan(s.width, s.height));
      } else {
        check_rows(loaded, s);
      }
    }
    check_rows(loaded, {17, 11});  // after all the errors
  }
}

TEST(qwen_limits_follow_the_original) {
  const Loaded loaded("qwen2vl_merger");  // a row is 4x4 pixels
  const auto size = [&](int w, int h) {
    return std::pair(loaded->plan(w, h).resized_width, loaded->plan(w, h).resized_height);
  };
  CHECK(size(40, 20) == std::pair(40, 20));
  CHECK(size(10, 30) == std::pair(8, 32));         // 2.5 -> 2, 7.5 -> 8: ties to even
  CHECK(size(1, 1) == std::pair(8, 8));            // at least 4 rows
  CHECK(size(100, 1) == std::pair(80, 4));         // 100 * sqrt(64 / 100), 1 * 0.8 up to a multiple
  CHECK(size(1000, 1000) == std::pair(512, 512));  // at most 16,384 rows
  CHECK_NEAR(area(loaded->plan(37, 21)), 37.0 * 21.0, 1e-2);
}

TEST(row_options_win) {
  for (const char* family : {"qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger"}) {
    const Loaded most(family, {.max_tokens = 9});
    for (const Size s : {Size{100, 100}, {300, 2}, {200, 1}, {1, 200}, {7, 90}}) {
      const int n = most->plan(s.width, s.height).n_rows;
      CHECK(n >= 1 && n <= 9);
    }
    const Loaded least(family, {.min_tokens = 50});
    CHECK(least->plan(4, 4).n_rows >= 50);
    CHECK_THROWS(Error, "at most 16384", Loaded(family, {.max_tokens = 16385}));
  }
  const Loaded internvl("internvl", {.max_tokens = 12});  // 4 rows a tile: two tiles and the thumbnail
  CHECK_EQ(internvl->plan(60, 10).n_rows, 12);
  CHECK_EQ(Loaded("internvl", {.min_tokens = 5})->plan(8, 8).n_rows, 20);  // 2x2 tiles, the closest ratio
  CHECK_THROWS(Error, "at least 4", Loaded("internvl", {.max_tokens = 3}));
  CHECK_EQ(Loaded("idefics3", {.max_tokens = 20})->plan(8, 8).n_rows, 20);  // 2x2 tiles and the whole
  CHECK_EQ(Loaded("idefics3", {.max_tokens = 4})->plan(64, 8).n_rows, 4);
  CHECK(Loaded("idefics3", {.min_tokens = 30})->plan(64, 8).n_rows >= 30);
  CHECK(Loaded("llava-1.6", {.max_tokens = 54})->plan(64, 64).n_rows <= 54);
  CHECK_THROWS(Error, "the smallest has", Loaded("llava-1.6", {.max_tokens = 10}));
  CHECK_THROWS(Error, "gives 4 rows", Loaded("gemma3", {.max_tokens = 3}));
  CHECK_THROWS(Error, "gives 16 rows", Loaded("llava-1.5", {.min_tokens = 17}));
  CHECK_THROWS(Error, "positive numbers", Loaded("gemma3", {.min_tokens = 8, .max_tokens = 4}));
  CHECK_THROWS(Error, "positive numbers", Loaded("gemma3", {.min_tokens = -1}));
}

TEST(wrapping_text) {
  const auto texts = [](const ImagePlan& p) {
    std::string all;
    for (const ImagePiece& piece : p.pieces) all += piece.n_rows ? cat("[", piece.n_rows, "]") : piece.text;
    return all;
  };
  CHECK_EQ(texts(Loaded("qwen2vl_merger")->plan(8, 8)), "<|vision_start|>[4]<|vision_end|>");
  CHECK_EQ(texts(Loaded("internvl")->plan(16, 8)), "<img>[12]</img>");
  CHECK_EQ(texts(Loaded("gemma3")->plan(9, 9)), "<start_of_image>[4]<end_of_image>");
  CHECK_EQ(texts(Loaded("llava-1.5")->plan(9, 9)), "[16]");
  CHECK_EQ(texts(Loaded("idefics3", {.max_tokens = 20})->plan(9, 9)),
           "<fake_token_around_image><row_1_col_1>[4]<fake_token_around_image><row_1_col_2>[4]\n"
           "<fake_token_around_image><row_2_col_1>[4]<fake_token_around_image><row_2_col_2>[4]\n\n"
           "<fake_token_around_image><global-img>[4]<fake_token_around_image>");
  CHECK_EQ(texts(Loaded("idefics3", {.max_tokens = 4})->plan(9, 9)),
           "<fake_token_around_image><global-img>[4]<fake_token_around_image>");
}

TEST(boxes_are_in_original_pixels) {
  const double whole = 30.0 * 20.0;
  CHECK_NEAR(area(Loaded("gemma3")->plan(30, 20)), whole, 1e-2);
  CHECK_NEAR(area(Loaded("internvl")->plan(30, 20)), 2 * whole, 1e-2);   // tiles and thumbnail
  CHECK_NEAR(area(Loaded("idefics3")->plan(30, 20)), 2 * whole, 1e-2);   // tiles and the whole
  CHECK_NEAR(area(Loaded("llava-1.6")->plan(32, 16)), 2 * 512.0, 1e-2);  // no padding: overview and grid
  // 1.5 cuts the middle square out of 30x20: columns 5 to 25.
  const ImagePlan crop = Loaded("llava-1.5")->plan(30, 20);
  CHECK_NEAR(crop.boxes.front().x0, 5.0, 1e-4);
  CHECK_NEAR(crop.boxes.back().x1, 25.0, 1e-4);
  CHECK_NEAR(crop.boxes.back().y1, 20.0, 1e-4);
  const ImagePlan q = Loaded("qwen2vl_merger")->plan(40, 20);
  CHECK_EQ(q.grid_cols, 10);
  CHECK_NEAR(q.boxes[11].x0, 4.0, 1e-5);  // second row, second column
  CHECK_NEAR(q.boxes[11].y1, 8.0, 1e-5);
}

TEST(newline_rows_have_empty_boxes) {
  const Loaded loaded("llava-1.6");
  const ImagePlan p = loaded->plan(32, 16);  // canvas 16x8: 4 rows of 8 patches, each with a newline behind
  CHECK_EQ(p.n_rows, 16 + 4 * 9);
  for (int r = 0; r < 4; ++r) {
    const Box b = p.boxes[static_cast<size_t>(16 + r * 9 + 8)];
    CHECK(b.x0 == b.x1 && b.y0 == b.y1);
  }
}

TEST(cancelling_stops_between_layers) {
  for (const std::string& family : mmproj::families()) {
    const Loaded loaded(family);
    const ImagePlan p = loaded->plan(16, 16);
    const auto tiles = loaded->preprocess(noise(16, 16).view(), p);
    CancelFlag cancel{true};
    CHECK_THROWS(Error, "cancelled", loaded->encode(tiles, p, &cancel));
    cancel = false;
    CHECK_EQ(loaded->encode(tiles, p, &cancel).rows(), int64_t{p.n_rows});
  }
}

TEST(tiles_that_do_not_fit_the_plan_are_refused) {
  for (const std::string& family : mmproj::families()) {
    const Loaded loaded(family);
    const ImagePlan p = loaded->plan(16, 16);
    CHECK_THROWS(Error, "expected", loaded->encode({}, p, nullptr));
    auto tiles = loaded->preprocess(noise(16, 16).view(), p);
    tiles[0].width += 2;
    CHECK_THROWS(Error, "expected", loaded->encode(tiles, p, nullptr));
  }
}

TEST(identity_names_what_changes_pixels) {
  CHECK(Loaded("qwen2vl_merger")->preprocessing_id() !=
        Loaded("qwen2vl_merger", {.max_tokens = 100})->preprocessing_id());
  CHECK(Loaded("internvl")->preprocessing_id() != Loaded("internvl", {.max_tokens = 12})->preprocessing_id());
  auto other = mmproj::file("gemma3");
  other.array<float>("clip.vision.image_std", gguf_writer::F32, {0.5f, 0.25f, 0.1f});
  CHECK(Loaded("gemma3")->preprocessing_id() != Loaded(other, mmproj::text("gemma3"))->preprocessing_id());
}
