// Resampling against Pillow 11.3, content hashes against published vectors, limits, normalisation.
#include "engine/vision/image.h"

#include "engine/core/sha256.h"
#include "tests/check.h"
#include "tests/vision/golden_file.h"

using namespace foveal;

namespace {

std::string hex(const std::array<uint8_t, 32>& digest) {
  std::string out;
  for (const uint8_t b : digest) {
    out += "0123456789abcdef"[b >> 4];
    out += "0123456789abcdef"[b & 15];
  }
  return out;
}

std::string sha_of(std::string_view text, size_t piece) {
  Sha256 sha;
  for (size_t at = 0; at < text.size(); at += piece) {
    const std::string_view part = text.substr(at, piece);
    sha.update({reinterpret_cast<const uint8_t*>(part.data()), part.size()});
  }
  return hex(sha.finish());
}

}  // namespace

TEST(resize_equals_pillow) {
  GoldenFile file("resize.bin");
  const int n_pictures = file.number();
  int n_cases = 0;
  for (int p = 0; p < n_pictures; ++p) {
    const int w = file.number(), h = file.number();
    const Image image{file.bytes(3 * w * h), w, h};
    // The same pixels in wider rows: the stride is honoured.
    const int64_t stride = 3 * w + 5;
    std::vector<uint8_t> wide(static_cast<size_t>(stride * h), 0xee);
    for (int y = 0; y < h; ++y)
      std::memcpy(wide.data() + y * stride, image.rgb.data() + 3 * w * y, 3 * static_cast<size_t>(w));
    for (int n = file.number(); n > 0; --n, ++n_cases) {
      const auto filter = static_cast<Filter>(file.number());
      const int tw = file.number(), th = file.number();
      const auto expected = file.bytes(3 * tw * th);
      CHECK(resize(image.view(), tw, th, filter).rgb == expected);
      CHECK(resize({wide.data(), w, h, stride}, tw, th, filter).rgb == expected);
      // Every window of the result is the same window computed alone.
      const Crop crop{tw / 3, th / 4, tw - tw / 3, th - th / 4 - th / 5};
      const Image part = resize_crop(image.view(), tw, th, filter, crop);
      CHECK_EQ(part.width, crop.width);
      for (int y = 0; y < crop.height; ++y) {
        CHECK(std::memcmp(part.rgb.data() + 3 * crop.width * y, expected.data() + 3 * (tw * (crop.y + y) + crop.x),
                          static_cast<size_t>(3 * crop.width)) == 0);
      }
    }
  }
  CHECK_EQ(n_cases, 33);
  CHECK(file.at_end());
}

TEST(sha256_vectors) {  // FIPS 180-4 examples
  const std::string empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
  CHECK_EQ(sha_of("", 1), empty);
  CHECK_EQ(sha_of("abc", 3), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK_EQ(sha_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 5),
           "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  const std::string million(1000000, 'a');
  for (const size_t piece : {1000000, 64, 63, 1}) {
    CHECK_EQ(sha_of(million, piece), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  }
}

TEST(identity_of_a_picture) {
  std::vector<uint8_t> rgb(18);
  for (size_t i = 0; i < rgb.size(); ++i) rgb[i] = static_cast<uint8_t>(i);
  // sha256(int32 width, int32 height, pixels), little-endian
  CHECK_EQ(hex(image_hash({rgb.data(), 2, 3, 6})), "d40b2ba1f326bee60b492953906c7f8a04a5483f05c450b18df21e14cfb303f7");
  CHECK(image_hash({rgb.data(), 2, 3, 6}) != image_hash({rgb.data(), 3, 2, 9}));
  std::vector<uint8_t> wide(30, 0x55);
  for (size_t y = 0; y < 3; ++y) std::memcpy(wide.data() + 10 * y, rgb.data() + 6 * y, 6);
  CHECK(image_hash({wide.data(), 2, 3, 10}) == image_hash({rgb.data(), 2, 3, 6}));
  rgb[17] ^= 1;
  CHECK(image_hash({wide.data(), 2, 3, 10}) != image_hash({rgb.data(), 2, 3, 6}));
}

TEST(size_limits) {
  check_image_size(1, 1);
  check_image_size(16384, 3906);
  check_image_size(8000, 8000);
  for (const auto& [w, h] : {std::pair<int64_t, int64_t>{0, 1},
                             {1, 0},
                             {-1, 5},
                             {16385, 1},
                             {1, 16385},
                             {20000, 1},
                             {2, 65535},
                             {8001, 8000},
                             {INT64_MAX, INT64_MAX}}) {
    CHECK_THROWS(Error, "expected", check_image_size(w, h));
    try {
      check_image_size(w, h);
    } catch (const Error& e) {
      CHECK(e.code() == ErrorCode::image);
      CHECK(std::string(e.what()).find(cat(w, "x", h)) != std::string::npos);
    }
  }
}

TEST(normalised_planes) {
  const uint8_t rgb[] = {0, 51, 102, 255, 204, 153, 7, 7, 7, 9, 9, 9};  // 2x1, and two pixels past the row
  float out[6];
  normalise(out, {rgb, 2, 1, 12}, {{0.5f, 0.25f, 0.125f}, {0.5f, 0.25f, 2.0f}});
  const float expected[] = {(0.0f / 255.0f - 0.5f) / 0.5f,     (255.0f / 255.0f - 0.5f) / 0.5f,
                            (51.0f / 255.0f - 0.25f) / 0.25f,  (204.0f / 255.0f - 0.25f) / 0.25f,
                            (102.0f / 255.0f - 0.125f) / 2.0f, (153.0f / 255.0f - 0.125f) / 2.0f};
  for (int i = 0; i < 6; ++i) CHECK_EQ(out[i], expected[i]);
}
