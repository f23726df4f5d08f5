// The one EXIF tag that changes pixels: orientation. Everything malformed is ignored.
#include <algorithm>
#include <cstring>

#include "tools/image_file/formats.h"

namespace foveal {

int exif_orientation(std::span<const uint8_t> exif) {
  static constexpr uint8_t kPrefix[6] = {'E', 'x', 'i', 'f', 0, 0};
  if (exif.size() >= 6 && std::equal(kPrefix, kPrefix + 6, exif.begin())) exif = exif.subspan(6);
  if (exif.size() < 8) return 1;
  const bool little = exif[0] == 'I' && exif[1] == 'I';
  if (!little && !(exif[0] == 'M' && exif[1] == 'M')) return 1;
  const auto number = [&](size_t at, size_t n) -> uint64_t {  // past the end: 0
    uint64_t v = 0;
    for (size_t i = 0; i < n; ++i) {
      if (at + i >= exif.size()) return 0;
      v |= static_cast<uint64_t>(exif[at + i]) << (8 * (little ? i : n - 1 - i));
    }
    return v;
  };
  if (number(2, 2) != 42) return 1;
  const size_t directory = number(4, 4);
  const size_t n_entries = number(directory, 2);
  for (size_t i = 0; i < n_entries; ++i) {
    const size_t entry = directory + 2 + 12 * i;
    if (entry + 12 > exif.size()) return 1;
    if (number(entry, 2) != 0x0112) continue;
    const uint64_t type = number(entry + 2, 2), count = number(entry + 4, 4);
    const uint64_t value = number(entry + 8, type == 4 ? 4 : 2);  // SHORT, or LONG from careless writers
    return (type == 3 || type == 4) && count == 1 && value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

Image oriented(Image image, int orientation) {
  if (orientation <= 1 || orientation > 8) return image;
  const bool swapped = orientation >= 5;  // width and height change places
  Image out{.rgb = std::vector<uint8_t>(image.rgb.size()),
            .width = swapped ? image.height : image.width,
            .height = swapped ? image.width : image.height};
  const bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  uint8_t* dst = out.rgb.data();
  for (int y = 0; y < out.height; ++y) {
    for (int x = 0; x < out.width; ++x, dst += 3) {
      int sx = swapped ? y : x, sy = swapped ? x : y;
      if (flip_x) sx = image.width - 1 - sx;
      if (flip_y) sy = image.height - 1 - sy;
      std::memcpy(dst, image.rgb.data() + (int64_t{sy} * image.width + sx) * 3, 3);
    }
  }
  return out;
}

void check_file_size(const std::string& name, int64_t width, int64_t height) {
  try {
    check_image_size(width, height);
  } catch (const Error& e) {
    fail(e.code(), name, ": ", e.what());
  }
}

}  // namespace foveal
