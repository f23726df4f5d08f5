// Recognises a picture file by its first bytes and hands it to the decoder, or says what it is instead.
#include <algorithm>
#include <cstring>
#include <string_view>

#include "tools/image_file/formats.h"
#include "tools/image_file/image_file.h"

namespace foveal {
namespace {

constexpr size_t kMaxEncoded = size_t{64} << 20;

struct Magic {
  size_t at;
  std::string_view bytes;
  const char* what;
};
// Formats that are recognised in order to be named.
constexpr Magic kOthers[] = {
    {0, "GIF8", "a GIF picture"},
    {0, "BM", "a BMP picture"},
    {0, std::string_view("II*\0", 4), "a TIFF picture"},
    {0, std::string_view("MM\0*", 4), "a TIFF picture"},
    {4, "ftypavif", "an AVIF picture"},
    {4, "ftypavis", "an AVIF picture"},
    {4, "ftyphei", "a HEIC picture"},
    {4, "ftyphev", "a HEIC picture"},
    {4, "ftypmif1", "a HEIC or AVIF picture"},
    {4, "ftypmsf1", "a HEIC or AVIF picture"},
    {4, "ftyp", "a video (MP4 or MOV)"},
    {0, "8BPS", "a Photoshop picture"},
    {0, std::string_view("\0\0\1\0", 4), "an icon"},
    {0, std::string_view("\0\0\0\x0cjP  ", 8), "a JPEG 2000 picture"},
    {0, std::string_view("\0\0\0\x0cJXL ", 8), "a JPEG XL picture"},
    {0, "\xff\x0a", "a JPEG XL picture"},
    {0, "%PDF", "a PDF document"},
    {0, "GGUF", "a GGUF model"},
    {0, "PK\3\4", "a ZIP archive"},
};

std::string describe_unknown(std::string_view s) {
  for (const Magic& m : kOthers) {
    if (s.size() >= m.at + m.bytes.size() && s.substr(m.at, m.bytes.size()) == m.bytes) return m.what;
  }
  const std::string_view head = s.substr(0, 1024);
  const bool text = std::all_of(head.begin(), head.end(), [](char c) {
    const auto u = static_cast<unsigned char>(c);
    return u >= 0x20 ? u != 0x7f : u == '\n' || u == '\r' || u == '\t' || u == '\f';
  });
  if (!text) return cat("no known picture format (first bytes ", quoted(s.substr(0, 8)), ")");
  if (head.find("<svg") != std::string_view::npos) return "an SVG drawing";
  if (head.find("<html") != std::string_view::npos || head.find("<!DOCTYPE html") != std::string_view::npos ||
      head.find("<!doctype html") != std::string_view::npos) {
    return "an HTML page";
  }
  return "text";
}

}  // namespace

Image decode_image(std::span<const uint8_t> bytes, const std::string& name) {
  if (bytes.empty()) fail(ErrorCode::image, name, ": the file is empty, expected a picture");
  if (bytes.size() > kMaxEncoded) {
    fail(ErrorCode::image, name, ": ", bytes.size(), " bytes, expected a picture file of at most ", kMaxEncoded);
  }
  const std::string_view s(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  DecodedImage decoded;
  if (s.starts_with("\x89PNG\r\n\x1a\n")) {
    decoded = decode_png(bytes, name);
  } else if (s.starts_with("\xff\xd8\xff")) {
    decoded = decode_jpeg(bytes, name);
  } else if (s.starts_with("RIFF") && s.size() >= 12 && s.substr(8, 4) == "WEBP") {
    decoded = decode_webp(bytes, name);
  } else {
    fail(ErrorCode::image, name, ": this is ", describe_unknown(s), "; this program reads ", built_in_formats(),
         ". Convert the picture to PNG, or use the Python package, which reads BMP and GIF too and takes what Pillow "
         "has opened");
  }
  return oriented(std::move(decoded.image), decoded.orientation);
}

std::string built_in_formats() {
  std::string formats;
  const auto add = [&](const char* f) { formats += (formats.empty() ? "" : ", ") + std::string(f); };
#ifdef FOVEAL_HAVE_PNG
  add("PNG");
#endif
#ifdef FOVEAL_HAVE_JPEG
  add("JPEG");
#endif
#ifdef FOVEAL_HAVE_WEBP
  add("WebP");
#endif
  (void)add;
  return formats.empty() ? "no picture files (built without libpng, libjpeg-turbo and libwebp)" : formats;
}

}  // namespace foveal
