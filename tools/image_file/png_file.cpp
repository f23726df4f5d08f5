// PNG through libpng's row interface: any colour type to RGB8, 16 bits to the high byte, alpha dropped as Pillow does.
#include "tools/image_file/formats.h"

#ifdef FOVEAL_HAVE_PNG
#include <png.h>

#include <cstring>
#include <vector>
#endif

namespace foveal {

#ifdef FOVEAL_HAVE_PNG
namespace {

struct PngReader {
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::span<const uint8_t> left;
  char message[128] = "";
  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
};

void on_error(png_structp png, png_const_charp text) {
  auto* r = static_cast<PngReader*>(png_get_error_ptr(png));
  std::strncpy(r->message, text, sizeof r->message - 1);
  png_longjmp(png, 1);
}
void on_warning(png_structp, png_const_charp) {}

void read_bytes(png_structp png, png_bytep out, size_t n) {
  auto* r = static_cast<PngReader*>(png_get_io_ptr(png));
  if (n > r->left.size()) png_error(png, "the file is truncated");
  std::memcpy(out, r->left.data(), n);
  r->left = r->left.subspan(n);
}

// No C++ object lives in the two functions that libpng may jump out of.
bool read_header(PngReader& r) {
  if (setjmp(png_jmpbuf(r.png))) return false;
  png_set_read_fn(r.png, &r, read_bytes);
  png_set_user_limits(r.png, kMaxImageSide, kMaxImageSide);
  png_set_chunk_malloc_max(r.png, size_t{64} << 20);
  png_set_chunk_cache_max(r.png, 128);
  png_set_crc_action(r.png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
  // Texts, profiles and all other chunks that don't decide pixels are passed over, never inflated or kept.
  png_set_keep_unknown_chunks(r.png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
  png_read_info(r.png, r.info);
  return true;
}

bool read_pixels(PngReader& r, png_bytepp rows, size_t row_bytes) {
  if (setjmp(png_jmpbuf(r.png))) return false;
  png_set_palette_to_rgb(r.png);
  png_set_expand_gray_1_2_4_to_8(r.png);
  png_set_strip_16(r.png);
  png_set_strip_alpha(r.png);
  png_set_gray_to_rgb(r.png);
  png_set_interlace_handling(r.png);
  png_read_update_info(r.png, r.info);
  if (png_get_rowbytes(r.png, r.info) != row_bytes) png_error(r.png, "unexpected row size");
  png_read_image(r.png, rows);
  png_read_end(r.png, nullptr);
  return true;
}

// The eXIf chunk's orientation; libpng has checked the chunks' lengths and sums by now.
int find_orientation(std::span<const uint8_t> bytes) {
  size_t at = 8;
  while (at + 12 <= bytes.size()) {
    const size_t n = size_t{bytes[at]} << 24 | size_t{bytes[at + 1]} << 16 | size_t{bytes[at + 2]} << 8 | bytes[at + 3];
    if (n > bytes.size() - at - 12) break;
    if (std::memcmp(bytes.data() + at + 4, "eXIf", 4) == 0) return exif_orientation(bytes.subspan(at + 8, n));
    at += n + 12;
  }
  return 1;
}

}  // namespace

DecodedImage decode_png(std::span<const uint8_t> bytes, const std::string& name) {
  // The size stands at a fixed place: limits come before libpng sees anything.
  if (bytes.size() < 33 || std::memcmp(bytes.data() + 12, "IHDR", 4) != 0) {
    fail(ErrorCode::image, name, ": PNG file of ", bytes.size(),
         " bytes without a header chunk, the file is truncated");
  }
  const auto side = [&](size_t at) {
    return int64_t{bytes[at]} << 24 | int64_t{bytes[at + 1]} << 16 | int64_t{bytes[at + 2]} << 8 | bytes[at + 3];
  };
  check_file_size(name, side(16), side(20));

  PngReader r;
  r.left = bytes;
  r.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &r, on_error, on_warning);
  if (r.png) r.info = png_create_info_struct(r.png);
  if (!r.info) throw std::bad_alloc();
  if (!read_header(r)) fail(ErrorCode::image, name, ": PNG: ", r.message);
  DecodedImage out;
  const png_uint_32 width = png_get_image_width(r.png, r.info), height = png_get_image_height(r.png, r.info);
  out.image.width = static_cast<int>(width);
  out.image.height = static_cast<int>(height);
  const size_t row_bytes = size_t{3} * width;
  out.image.rgb.resize(row_bytes * height);
  std::vector<png_bytep> rows(height);
  for (size_t y = 0; y < height; ++y) rows[y] = out.image.rgb.data() + y * row_bytes;
  if (!read_pixels(r, rows.data(), row_bytes)) fail(ErrorCode::image, name, ": PNG: ", r.message);
  out.orientation = find_orientation(bytes);
  return out;
}

#else

DecodedImage decode_png(std::span<const uint8_t>, const std::string& name) {
  fail(ErrorCode::unsupported, name, ": this is a PNG picture; this program was built without libpng and reads ",
       built_in_formats());
}

#endif

}  // namespace foveal
