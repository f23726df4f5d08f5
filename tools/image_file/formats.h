// One decoder a format, and EXIF: used by decode_image alone.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "tools/image_file/image_file.h"

namespace foveal {

struct DecodedImage {
  Image image;
  int orientation = 1;  // EXIF 1..8; 1: as stored
};

// Each throws ErrorCode::image naming `name`. When the build lacks the library: ErrorCode::unsupported.
DecodedImage decode_png(std::span<const uint8_t> bytes, const std::string& name);
DecodedImage decode_jpeg(std::span<const uint8_t> bytes, const std::string& name);
DecodedImage decode_webp(std::span<const uint8_t> bytes, const std::string& name);

// Orientation from an EXIF block (TIFF header first, with or without "Exif\0\0" before it); 1 for anything malformed.
int exif_orientation(std::span<const uint8_t> exif);
// Turns and mirrors the stored picture upright.
Image oriented(Image image, int orientation);

// check_image_size with the file's name in the message.
void check_file_size(const std::string& name, int64_t width, int64_t height);

}  // namespace foveal
