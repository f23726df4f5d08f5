// RGB pictures in memory, their content hash, and the resampling filters of Pillow.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/core/error.h"

namespace foveal {

// Not owning; 3 bytes a pixel, rows `stride` bytes apart.
struct ImageView {
  const uint8_t* rgb = nullptr;
  int width = 0, height = 0;
  int64_t stride = 0;
};

struct Image {
  std::vector<uint8_t> rgb;  // [height][width][3]
  int width = 0, height = 0;
  ImageView view() const { return {rgb.data(), width, height, int64_t{3} * width}; }
};

// Limits that hold for every picture, from any source: sides 1..16384, at most 64 million pixels.
// ErrorCode::image otherwise.
constexpr int kMaxImageSide = 16384;
constexpr int64_t kMaxImagePixels = 64'000'000;
void check_image_size(int64_t width, int64_t height);

// SHA-256 of width, height and pixels: the identity of a picture (never its path).
std::array<uint8_t, 32> image_hash(ImageView image);

enum class Filter { bilinear, bicubic, lanczos };
// Separable, antialiased, horizontal pass first, 8-bit between the passes, 22-bit fixed-point weights: equal to
// Pillow 11.3 bit for bit. A picture that has the target size already is copied.
Image resize(ImageView image, int width, int height, Filter filter);

struct Crop {
  int x = 0, y = 0, width = 0, height = 0;  // pixels of the resized picture
};
// The window `crop` of resize(image, width, height, filter); nothing outside it is computed or stored.
Image resize_crop(ImageView image, int width, int height, Filter filter, const Crop& crop);

struct Normalisation {
  std::array<float, 3> mean{}, std{};  // std > 0
};
// out [3][height][width] planar = (value / 255 - mean) / std, in float32 as the original processors compute it.
void normalise(float* out, ImageView image, const Normalisation& n);

}  // namespace foveal
