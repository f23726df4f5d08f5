// JPEG through libjpeg-turbo: corrupt data is an error, scans are limited, CMYK becomes RGB as Pillow does it.
#include "tools/image_file/formats.h"

#ifdef FOVEAL_HAVE_JPEG
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include <jerror.h>
#include <jpeglib.h>
#endif

namespace foveal {

#ifdef FOVEAL_HAVE_JPEG
namespace {

constexpr int kMaxScans = 100;

struct JpegReader {
  jpeg_decompress_struct info{};
  jpeg_error_mgr errors{};
  jpeg_source_mgr source{};
  jpeg_progress_mgr progress{};
  std::jmp_buf back;
  char message[JMSG_LENGTH_MAX] = "";
  bool created = false;
  ~JpegReader() {
    if (created) jpeg_destroy_decompress(&info);
  }
};

[[noreturn]] void stop(j_common_ptr info, const char* text) {
  auto* r = static_cast<JpegReader*>(info->client_data);
  if (text) {
    std::strncpy(r->message, text, sizeof r->message - 1);
  } else {
    info->err->format_message(info, r->message);
  }
  std::longjmp(r->back, 1);
}

void on_error(j_common_ptr info) {
  stop(info, nullptr);
}
void on_message(j_common_ptr info, int level) {  // level < 0: the data is corrupt
  const int code = info->err->msg_code;
  if (level < 0 && code != JWRN_ADOBE_XFORM && code != JWRN_JFIF_MAJOR) stop(info, nullptr);
}
void on_progress(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxScans) stop(info, "more than 100 scans");
}

boolean on_end_of_bytes(j_decompress_ptr info) {
  stop(reinterpret_cast<j_common_ptr>(info), "the file is truncated");
}
void skip_bytes(j_decompress_ptr info, long n) {
  if (n <= 0) return;
  if (static_cast<size_t>(n) > info->src->bytes_in_buffer) on_end_of_bytes(info);
  info->src->next_input_byte += n;
  info->src->bytes_in_buffer -= static_cast<size_t>(n);
}
void nothing(j_decompress_ptr) {}

// No C++ object lives in the two functions that libjpeg may jump out of.
bool read_header(JpegReader& r, const uint8_t* data, size_t size) {
  r.info.err = jpeg_std_error(&r.errors);
  r.errors.error_exit = on_error;
  r.errors.emit_message = on_message;
  r.info.client_data = &r;
  if (setjmp(r.back)) return false;
  jpeg_create_decompress(&r.info);
  r.created = true;
  r.source.init_source = nothing;
  r.source.term_source = nothing;
  r.source.fill_input_buffer = on_end_of_bytes;
  r.source.skip_input_data = skip_bytes;
  r.source.resync_to_restart = jpeg_resync_to_restart;
  r.source.next_input_byte = data;
  r.source.bytes_in_buffer = size;
  r.info.src = &r.source;
  r.progress.progress_monitor = on_progress;
  r.info.progress = &r.progress;
  r.info.mem->max_memory_to_use = 1L << 30;
  jpeg_save_markers(&r.info, JPEG_APP0 + 1, 0xffff);
  jpeg_read_header(&r.info, TRUE);
  return true;
}

bool start_pixels(JpegReader& r) {
  if (setjmp(r.back)) return false;
  const bool cmyk = r.info.jpeg_color_space == JCS_CMYK || r.info.jpeg_color_space == JCS_YCCK;
  r.info.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
  jpeg_start_decompress(&r.info);
  return true;
}

// row: room for one row of output_components a pixel; image [height][width][3].
bool read_pixels(JpegReader& r, uint8_t* row, uint8_t* const image) {
  if (setjmp(r.back)) return false;
  while (r.info.output_scanline < r.info.output_height) {
    const size_t width = r.info.output_width;
    uint8_t* const out = image + size_t{3} * width * r.info.output_scanline;
    JSAMPROW target = r.info.output_components == 3 ? out : row;
    jpeg_read_scanlines(&r.info, &target, 1);
    if (r.info.output_components == 4) {
      // Adobe stores inks inverted: `row` holds 255 - ink. Channel = white of K less its share of the ink.
      for (size_t x = 0; x < width; ++x) {
        const int k = row[4 * x + 3];
        for (size_t c = 0; c < 3; ++c) {
          const int product = (255 - row[4 * x + c]) * k + 128;
          out[3 * x + c] = static_cast<uint8_t>(k - (((product >> 8) + product) >> 8));
        }
      }
    }
  }
  jpeg_finish_decompress(&r.info);
  return true;
}

}  // namespace

DecodedImage decode_jpeg(std::span<const uint8_t> bytes, const std::string& name) {
  JpegReader r;
  if (!read_header(r, bytes.data(), bytes.size())) fail(ErrorCode::image, name, ": JPEG: ", r.message);
  check_file_size(name, r.info.image_width, r.info.image_height);
  if (!start_pixels(r)) fail(ErrorCode::image, name, ": JPEG: ", r.message);
  const int n = r.info.output_components;
  if (n != 3 && n != 4) fail(ErrorCode::image, name, ": JPEG with ", n, " channels, expected gray, RGB or CMYK");

  DecodedImage out;
  for (jpeg_saved_marker_ptr m = r.info.marker_list; m; m = m->next) {
    const std::span<const uint8_t> data(m->data, m->data_length);
    if (data.size() < 6 || std::memcmp(data.data(), "Exif\0\0", 6) != 0) continue;
    out.orientation = exif_orientation(data);
    break;
  }
  out.image.width = static_cast<int>(r.info.output_width);
  out.image.height = static_cast<int>(r.info.output_height);
  out.image.rgb.resize(size_t{3} * r.info.output_width * r.info.output_height);
  std::vector<uint8_t> row(n == 4 ? size_t{4} * r.info.output_width : 0);
  if (!read_pixels(r, row.data(), out.image.rgb.data())) fail(ErrorCode::image, name, ": JPEG: ", r.message);
  return out;
}

#else

DecodedImage decode_jpeg(std::span<const uint8_t>, const std::string& name) {
  fail(ErrorCode::unsupported, name,
       ": this is a JPEG picture; this program was built without libjpeg-turbo and reads ", built_in_formats());
}

#endif

}  // namespace foveal
