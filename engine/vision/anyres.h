// LLaVA-1.6's any-resolution rule: which grid of tiles a picture gets, and which of its rows remain without the
// padding.
#pragma once

#include <vector>

#include "engine/vision/image.h"

namespace foveal {

struct Resolution {
  int width = 0, height = 0;  // pixels, multiples of a tile
};

// How a picture lies on its grid of tiles. Rows and columns count patches of the stitched grid.
struct AnyRes {
  Resolution canvas;
  int resized_width = 0, resized_height = 0;                         // aspect ratio kept
  int left = 0, top = 0;                                             // padding before the picture, pixels
  int row_begin = 0, row_end = 0, column_begin = 0, column_end = 0;  // what stays after unpadding
};

// patches: of a tile's side; tile: pixels of a tile's side. With unpad = false every row stays.
AnyRes lay_out_anyres(int width, int height, const std::vector<Resolution>& choices, int tile, int patches, bool unpad);

// The picture resized and centred on a black canvas.
Image pad_to_canvas(ImageView image, const AnyRes& a);

}  // namespace foveal
