// Choice of the canvas, centring, and unpadding of LLaVA-1.6, in double as the original computes them.
#include "engine/vision/anyres.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace foveal {
namespace {

// The canvas that keeps most of the picture's pixels; of equal ones, the one that wastes least.
Resolution best_canvas(int width, int height, const std::vector<Resolution>& choices) {
  Resolution best = choices.front();
  int64_t best_kept = -1, best_waste = 0;
  for (const Resolution& c : choices) {
    const double scale = std::min(static_cast<double>(c.width) / width, static_cast<double>(c.height) / height);
    const auto w = static_cast<int64_t>(width * scale), h = static_cast<int64_t>(height * scale);
    const int64_t kept = std::min(w * h, int64_t{width} * height);
    const int64_t waste = int64_t{c.width} * c.height - kept;
    if (kept > best_kept || (kept == best_kept && waste < best_waste)) {
      best = c;
      best_kept = kept;
      best_waste = waste;
    }
  }
  return best;
}

// int(round(v, 7)) of Python: the whole part, where 7 decimals decide.
int whole_part(double v) {
  return static_cast<int>(std::llround(v * 1e7) / 10000000);
}

}  // namespace

AnyRes lay_out_anyres(int width, int height, const std::vector<Resolution>& choices, int tile, int patches,
                      bool unpad) {
  AnyRes a;
  a.canvas = best_canvas(width, height, choices);
  const double scale =
      std::min(static_cast<double>(a.canvas.width) / width, static_cast<double>(a.canvas.height) / height);
  a.resized_width = std::min(static_cast<int>(std::ceil(width * scale)), a.canvas.width);
  a.resized_height = std::min(static_cast<int>(std::ceil(height * scale)), a.canvas.height);
  a.left = (a.canvas.width - a.resized_width) / 2;
  a.top = (a.canvas.height - a.resized_height) / 2;

  const int rows = a.canvas.height / tile * patches, columns = a.canvas.width / tile * patches;
  a.row_end = rows;
  a.column_end = columns;
  if (!unpad) return a;
  if (static_cast<double>(width) / height > static_cast<double>(columns) / rows) {
    a.row_begin = (rows - whole_part(height * (static_cast<double>(columns) / width))) / 2;
    a.row_end = rows - a.row_begin;
  } else {
    a.column_begin = (columns - whole_part(width * (static_cast<double>(rows) / height))) / 2;
    a.column_end = columns - a.column_begin;
  }
  return a;
}

Image pad_to_canvas(ImageView image, const AnyRes& a) {
  const Image resized = resize(image, a.resized_width, a.resized_height, Filter::bicubic);
  Image out{.rgb = std::vector<uint8_t>(static_cast<size_t>(a.canvas.width) * static_cast<size_t>(a.canvas.height) * 3),
            .width = a.canvas.width,
            .height = a.canvas.height};
  for (int y = 0; y < a.resized_height; ++y) {
    std::memcpy(out.rgb.data() + (int64_t{a.top + y} * a.canvas.width + a.left) * 3,
                resized.rgb.data() + int64_t{y} * a.resized_width * 3, static_cast<size_t>(a.resized_width) * 3);
  }
  return out;
}

}  // namespace foveal
