// Pillow's separable resampling in 8-bit fixed point: weights of 22 bits, the horizontal pass first.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/vision/image.h"

namespace foveal {
namespace {

constexpr int kBits = 22;  // fraction bits of a weight

double bilinear(double x) {
  return std::max(1.0 - std::fabs(x), 0.0);
}

double bicubic(double x) {  // Keys' cubic convolution
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= 3.14159265358979323846;
  return std::sin(x) / x;
}
double lanczos(double x) {
  return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
}

struct Kernel {
  double (*value)(double);
  double support;  // half width, in source pixels when enlarging
};
Kernel kernel_of(Filter filter) {
  switch (filter) {
    case Filter::bilinear:
      return {bilinear, 1.0};
    case Filter::bicubic:
      return {bicubic, 2.0};
    case Filter::lanczos:
      break;
  }
  return {lanczos, 3.0};
}

// For every output position of a window: which inputs count, with which weights (of sum about 2^22).
struct Axis {
  std::vector<int> first, count;  // [n]
  std::vector<int32_t> weight;    // [n][taps]
  int taps = 0;
  int in_begin = 0, in_end = 0;  // union of the inputs
};

Axis make_axis(int n_in, int n_out, int begin, int n, Filter filter) {
  const Kernel kernel = kernel_of(filter);
  const double scale = static_cast<double>(n_in) / n_out;
  const double stretch = std::max(scale, 1.0), support = kernel.support * stretch;
  Axis a;
  a.taps = std::min(static_cast<int>(std::ceil(support)) * 2 + 1, n_in);
  a.first.resize(static_cast<size_t>(n));
  a.count.resize(static_cast<size_t>(n));
  a.weight.resize(static_cast<size_t>(n) * static_cast<size_t>(a.taps));
  a.in_begin = n_in;
  std::vector<double> w(static_cast<size_t>(a.taps));
  for (int i = 0; i < n; ++i) {
    const double center = (begin + i + 0.5) * scale;
    const int lo = std::max(static_cast<int>(center - support + 0.5), 0);
    const int hi = std::min(static_cast<int>(center + support + 0.5), n_in);
    const int count = hi - lo;
    double sum = 0.0;
    for (int k = 0; k < count; ++k) {
      w[static_cast<size_t>(k)] = kernel.value((k + lo - center + 0.5) * (1.0 / stretch));
      sum += w[static_cast<size_t>(k)];
    }
    int32_t* out = a.weight.data() + static_cast<int64_t>(i) * a.taps;
    for (int k = 0; k < count; ++k) {
      const double v = (sum != 0.0 ? w[static_cast<size_t>(k)] / sum : w[static_cast<size_t>(k)]) * (1 << kBits);
      out[k] = static_cast<int32_t>(v < 0.0 ? v - 0.5 : v + 0.5);
    }
    a.first[static_cast<size_t>(i)] = lo;
    a.count[static_cast<size_t>(i)] = count;
    a.in_begin = std::min(a.in_begin, lo);
    a.in_end = std::max(a.in_end, hi);
  }
  return a;
}

uint8_t to_byte(int32_t fixed) {
  return static_cast<uint8_t>(std::clamp(fixed >> kBits, 0, 255));
}

// dst [n][3] from one row of the source.
void resample_row(uint8_t* dst, const uint8_t* src, const Axis& a) {
  for (size_t i = 0; i < a.first.size(); ++i) {
    const uint8_t* s = src + int64_t{3} * a.first[i];
    const int32_t* w = a.weight.data() + static_cast<int64_t>(i) * a.taps;
    int32_t r = 1 << (kBits - 1), g = r, b = r;
    for (int k = 0; k < a.count[i]; ++k, s += 3) {
      r += w[k] * s[0];
      g += w[k] * s[1];
      b += w[k] * s[2];
    }
    dst[3 * i] = to_byte(r);
    dst[3 * i + 1] = to_byte(g);
    dst[3 * i + 2] = to_byte(b);
  }
}

// dst [n_bytes] = weighted sum of `count` rows, in blocks that stay in the first cache.
void blend_rows(uint8_t* dst, const uint8_t* src, int64_t stride, const int32_t* w, int count, int64_t n_bytes) {
  constexpr int64_t kBlock = 1024;
  int32_t sum[kBlock];
  for (int64_t at = 0; at < n_bytes; at += kBlock) {
    const int64_t n = std::min(kBlock, n_bytes - at);
    std::fill_n(sum, n, 1 << (kBits - 1));
    for (int k = 0; k < count; ++k) {
      const uint8_t* row = src + k * stride + at;
      const int32_t wk = w[k];
      for (int64_t i = 0; i < n; ++i) sum[i] += wk * row[i];
    }
    for (int64_t i = 0; i < n; ++i) dst[at + i] = to_byte(sum[i]);
  }
}

}  // namespace

Image resize_crop(ImageView image, int width, int height, Filter filter, const Crop& crop) {
  Image out{.rgb = std::vector<uint8_t>(static_cast<size_t>(crop.width) * static_cast<size_t>(crop.height) * 3),
            .width = crop.width,
            .height = crop.height};
  const int64_t out_stride = int64_t{3} * crop.width;
  const bool vertical = height != image.height;
  Axis rows;
  if (vertical) rows = make_axis(image.height, height, crop.y, crop.height, filter);
  const int y_begin = vertical ? rows.in_begin : crop.y;
  const int y_end = vertical ? rows.in_end : crop.y + crop.height;

  // Horizontal pass over the rows that the vertical pass reads; without it, the source's own columns.
  const uint8_t* mid = image.rgb + y_begin * image.stride + int64_t{3} * crop.x;
  int64_t mid_stride = image.stride;
  std::vector<uint8_t> passed;
  if (width != image.width) {
    const Axis columns = make_axis(image.width, width, crop.x, crop.width, filter);
    uint8_t* dst = out.rgb.data();
    if (vertical) {
      passed.resize(static_cast<size_t>(out_stride) * static_cast<size_t>(y_end - y_begin));
      dst = passed.data();
    }
    for (int y = y_begin; y < y_end; ++y) {
      resample_row(dst + (y - y_begin) * out_stride, image.rgb + y * image.stride, columns);
    }
    if (!vertical) return out;
    mid = passed.data();
    mid_stride = out_stride;
  }
  for (int y = 0; y < crop.height; ++y) {
    uint8_t* dst = out.rgb.data() + y * out_stride;
    if (!vertical) {
      std::memcpy(dst, mid + y * mid_stride, static_cast<size_t>(out_stride));
      continue;
    }
    const auto i = static_cast<size_t>(y);
    blend_rows(dst, mid + (rows.first[i] - y_begin) * mid_stride, mid_stride,
               rows.weight.data() + int64_t{y} * rows.taps, rows.count[i], out_stride);
  }
  return out;
}

Image resize(ImageView image, int width, int height, Filter filter) {
  return resize_crop(image, width, height, filter, {0, 0, width, height});
}

}  // namespace foveal
