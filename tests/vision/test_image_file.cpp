// Picture files: pixels equal to Pillow's, and every kind of bad file refused by name before pixels are allocated.
#include "tools/image_file/image_file.h"

#include <algorithm>
#include <map>
#include <memory>

#include "tests/check.h"
#include "tests/vision/golden_file.h"

using namespace foveal;
using Bytes = std::vector<uint8_t>;

namespace {

struct Picture {
  Bytes file, rgb;
  int tolerance = 0, width = 0, height = 0;
};

const std::map<std::string, Picture>& pictures() {
  static const std::map<std::string, Picture> all = [] {
    std::map<std::string, Picture> m;
    GoldenFile file("pictures.bin");
    for (int n = file.number(); n > 0; --n) {
      const std::string name = file.text(file.number());
      Picture& p = m[name];
      p.file = file.bytes(file.number());
      p.tolerance = file.number();
      p.width = file.number();
      p.height = file.number();
      p.rgb = file.bytes(3 * p.width * p.height);
    }
    return m;
  }();
  return all;
}

// What a build without one of the libraries can't read is left out.
bool built_in(const std::string& name) {
  const std::string formats = built_in_formats();
  const char* format = name.find("png") != std::string::npos ? "PNG" : name.starts_with("jpeg") ? "JPEG" : "WebP";
  return formats.find(format) != std::string::npos;
}

void refused(const Bytes& bytes, const char* part, ErrorCode code = ErrorCode::image) {
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[bytes.size()]);  // a sanitizer sees any read past the end
  std::copy(bytes.begin(), bytes.end(), exact.get());
  try {
    decode_image({exact.get(), bytes.size()}, "bad.png");
    check::failed(__FILE__, __LINE__, cat("accepted, expected '", part, "'"));
  } catch (const Error& e) {
    if (e.code() != code || !std::strstr(e.what(), part) || !std::strstr(e.what(), "bad.png")) {
      check::failed(__FILE__, __LINE__, cat("expected '", part, "': ", e.what()));
    }
  }
}

Bytes text(std::string_view s) {
  return {s.begin(), s.end()};
}

}  // namespace

TEST(pixels_equal_pillow) {
  CHECK(pictures().size() > 50);
  for (const auto& [name, p] : pictures()) {
    if (!built_in(name)) continue;
    const Image image = decode_image(p.file, name);
    int worst = image.rgb.size() == p.rgb.size() ? 0 : 256;
    for (size_t i = 0; worst < 256 && i < p.rgb.size(); ++i) worst = std::max(worst, std::abs(image.rgb[i] - p.rgb[i]));
    if (image.width != p.width || image.height != p.height || worst > p.tolerance) {
      check::failed(__FILE__, __LINE__, cat(name, ": ", image.width, "x", image.height, ", worst difference ", worst));
    }
  }
}

TEST(truncated_at_every_byte) {
  for (const char* name : {"png RGB", "png interlaced", "jpeg 4:2:0", "jpeg progressive", "webp lossy", "webp lossless",
                           "webp animated"}) {
    if (!built_in(name)) continue;
    const Bytes& whole = pictures().at(name).file;
    for (size_t n = 12; n < whole.size(); ++n)
      refused(Bytes(whole.begin(), whole.begin() + static_cast<int64_t>(n)), "");
    CHECK_EQ(decode_image(whole, name).width, 19);
  }
}

// Flipped bytes give the picture or an error, never anything else (and PNG notices every one by its sums).
TEST(damaged_bytes) {
  for (const char* name : {"png RGB", "jpeg 4:2:0", "jpeg progressive", "jpeg CMYK", "webp lossy", "webp alpha"}) {
    if (!built_in(name)) continue;
    const Picture& p = pictures().at(name);
    for (size_t i = 0; i < p.file.size(); ++i) {
      Bytes bytes = p.file;
      bytes[i] ^= 0x10;
      try {
        const Image image = decode_image(bytes, name);
        CHECK(std::string(name) != "png RGB");
        CHECK_EQ(image.rgb.size(), static_cast<size_t>(image.width) * static_cast<size_t>(image.height) * 3);
      } catch (const Error& e) {
        CHECK(e.code() == ErrorCode::image);
      }
    }
  }
}

TEST(too_large_by_the_header) {
  Bytes png = pictures().at("png RGB").file;
  for (const auto& [w, h] : {std::pair<uint32_t, uint32_t>{65535, 65535},
                             {20000, 1},
                             {2, 65535},
                             {0, 5},
                             {5, 0},
                             {0xffffffffu, 1},
                             {16384, 16384}}) {
    for (size_t i = 0; i < 4; ++i) {
      png[16 + i] = static_cast<uint8_t>(w >> (24 - 8 * i));
      png[20 + i] = static_cast<uint8_t>(h >> (24 - 8 * i));
    }
    if (built_in("png")) refused(png, cat(w, "x", h).c_str());
  }
  if (built_in("jpeg")) {
    Bytes jpeg = pictures().at("jpeg 4:4:4").file;
    const uint8_t frame[] = {0xff, 0xc0};
    const auto at = std::search(jpeg.begin(), jpeg.end(), frame, frame + 2);
    std::fill_n(at + 5, 4, 0x9c);
    refused(jpeg, "40092x40092");
  }
  if (built_in("webp")) {
    Bytes webp = pictures().at("webp animated").file;  // VP8X: canvas sides less one, 24 bits each, at byte 24
    const uint8_t sides[] = {0x1f, 0x4e, 0, 0, 0, 0};
    std::copy_n(sides, 6, webp.begin() + 24);
    refused(webp, "20000x1");
  }
}

// The first scan of a progressive file (the mean of every block), then n legal scans, each of one coefficient in one
// component, all zero: code '0' of a table with the single symbol "end of block".
Bytes jpeg_of_scans(int n) {
  const Bytes& jpeg = pictures().at("jpeg progressive").file;
  const uint8_t scan[] = {0xff, 0xda}, table[] = {0xff, 0xc4};
  const auto first = std::search(jpeg.begin(), jpeg.end(), scan, scan + 2);
  Bytes out(jpeg.begin(), std::search(first + 2, jpeg.end(), table, table + 2));
  Bytes zeros = {0xff, 0xc4, 0, 20, 0x10, 1};
  zeros.resize(22);  // 15 more lengths of no code, then the symbol 0
  out.insert(out.end(), zeros.begin(), zeros.end());
  for (int i = 0; i < n; ++i) {
    const auto component = static_cast<uint8_t>(1 + i / 63 % 3), coefficient = static_cast<uint8_t>(1 + i % 63);
    const Bytes one = {0xff, 0xda, 0, 8, 1, component, 0, coefficient, coefficient, 0, 0x03};
    out.insert(out.end(), one.begin(), one.end());
  }
  out.insert(out.end(), {0xff, 0xd9});
  return out;
}

TEST(a_jpeg_of_many_scans) {
  if (!built_in("jpeg")) return;
  CHECK_EQ(decode_image(jpeg_of_scans(90), "scans").width, 19);
  refused(jpeg_of_scans(150), "more than 100 scans");
  refused(jpeg_of_scans(80000), "JPEG");
}

TEST(other_files_are_named) {
  refused({}, "empty");
  refused(text("GIF89a\x10\0"), "GIF");
  refused(text("BM\x10\0\0\0"), "BMP");
  refused(text(std::string_view("II*\0abcd", 8)), "TIFF");
  refused(text(std::string_view("\0\0\0\x20"
                                "ftypheic\0\0",
                                14)),
          "HEIC");
  refused(text(std::string_view("\0\0\0\x20"
                                "ftypavif\0\0",
                                14)),
          "AVIF");
  refused(text("<?xml version=\"1.0\"?><svg xmlns=\"http://www.w3.org/2000/svg\"/>"), "SVG");
  refused(text("%PDF-1.7\n"), "PDF");
  refused(text("<!DOCTYPE html><html></html>"), "HTML");
  refused(text("a plain letter"), "this is text");
  refused(text("GGUF\x03\0\0"), "GGUF model");
  refused(text("\x01\x02\x03\xfe\xff\xfa\xfb random"), "no known picture format");
  refused(text("a plain letter"), "Convert the picture to PNG");
  refused(Bytes((size_t{64} << 20) + 1, 0x20), "at most");
  for (const auto& [name, p] : pictures()) {
    if (name == "png L" && built_in(name)) CHECK_EQ(decode_image(p.file, "called.jpg").height, 13);  // content decides
  }
}

// Every short prefix of each magic, and noise behind it.
TEST(nothing_behind_the_magic) {
  for (const char* name : {"png RGB", "jpeg 4:4:4", "webp lossy"}) {
    const Bytes& whole = pictures().at(name).file;
    for (size_t n = 1; n < 12; ++n)
      refused(Bytes(whole.begin(), whole.begin() + static_cast<int64_t>(n)), "", ErrorCode::image);
    if (!built_in(name)) continue;
    Bytes noise(whole.begin(), whole.begin() + 12);
    for (uint32_t i = 0; i < 500; ++i) noise.push_back(static_cast<uint8_t>(i * 2654435761u >> 24));
    refused(noise, "");
  }
}
