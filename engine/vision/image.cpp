// Size limits, content hash and normalisation of pictures.
#include "engine/vision/image.h"

#include "engine/core/sha256.h"

namespace foveal {

void check_image_size(int64_t width, int64_t height) {
  if (width < 1 || height < 1) {
    fail(ErrorCode::image, "picture of ", width, "x", height, " pixels: it has no pixels; expected at least 1x1");
  }
  if (width > kMaxImageSide || height > kMaxImageSide || width * height > kMaxImagePixels) {
    fail(ErrorCode::image, "picture of ", width, "x", height, " pixels is too large: expected sides of at most ",
         kMaxImageSide, " and at most ", kMaxImagePixels, " pixels; scale it down first");
  }
}

std::array<uint8_t, 32> image_hash(ImageView image) {
  Sha256 sha;
  std::array<uint8_t, 8> size;
  for (size_t i = 0; i < 4; ++i) {
    size[i] = static_cast<uint8_t>(static_cast<uint32_t>(image.width) >> (8 * i));
    size[4 + i] = static_cast<uint8_t>(static_cast<uint32_t>(image.height) >> (8 * i));
  }
  sha.update(size);
  for (int y = 0; y < image.height; ++y) {
    sha.update({image.rgb + y * image.stride, static_cast<size_t>(image.width) * 3});
  }
  return sha.finish();
}

void normalise(float* out, ImageView image, const Normalisation& n) {
  const int64_t plane = int64_t{image.width} * image.height;
  for (size_t c = 0; c < 3; ++c) {
    float table[256];
    for (int v = 0; v < 256; ++v) table[v] = (static_cast<float>(v) / 255.0f - n.mean[c]) / n.std[c];
    float* dst = out + static_cast<int64_t>(c) * plane;
    for (int y = 0; y < image.height; ++y) {
      const uint8_t* src = image.rgb + y * image.stride + c;
      for (int x = 0; x < image.width; ++x) *dst++ = table[src[3 * x]];
    }
  }
}

}  // namespace foveal
