// Decodes PNG, JPEG and WebP files (recognised by content) to RGB8, as far as the build found the libraries.
#pragma once

#include <span>
#include <string>

#include "engine/vision/image.h"

namespace foveal {

// EXIF orientation applied, alpha dropped, gray replicated, 16-bit -> high byte, CMYK as Pillow, first frame of an
// animation. Limits are checked from the header before pixels are allocated. ErrorCode::image names what was seen.
Image decode_image(std::span<const uint8_t> bytes, const std::string& name);
Image read_image_file(const std::string& path);  // ErrorCode::io as well; at most 64 MiB

// "PNG, JPEG, WebP" as far as this build reads them.
std::string built_in_formats();

}  // namespace foveal
