// WebP through libwebp: lossy and lossless, the first frame of an animation, alpha dropped.
#include "tools/image_file/formats.h"

#ifdef FOVEAL_HAVE_WEBP
#include <webp/decode.h>
#include <webp/demux.h>

#include <memory>
#endif

namespace foveal {

#ifdef FOVEAL_HAVE_WEBP
namespace {

struct FreeDemuxer {
  void operator()(WebPDemuxer* d) const { WebPDemuxDelete(d); }
};

struct FrameIterator {
  WebPIterator it{};
  ~FrameIterator() { WebPDemuxReleaseIterator(&it); }
};

// Decodes one frame to its place on the canvas.
void decode_frame(const WebPIterator& it, Image& canvas, const std::string& name) {
  WebPDecoderConfig config;
  WebPInitDecoderConfig(&config);
  config.output.colorspace = MODE_RGB;
  config.output.is_external_memory = 1;
  const size_t stride = size_t{3} * static_cast<size_t>(canvas.width);
  const size_t at = static_cast<size_t>(it.y_offset) * stride + size_t{3} * static_cast<size_t>(it.x_offset);
  config.output.u.RGBA.rgba = canvas.rgb.data() + at;
  config.output.u.RGBA.stride = static_cast<int>(stride);
  config.output.u.RGBA.size = canvas.rgb.size() - at;
  const VP8StatusCode status = WebPDecode(it.fragment.bytes, it.fragment.size, &config);
  WebPFreeDecBuffer(&config.output);
  if (status == VP8_STATUS_OUT_OF_MEMORY) throw std::bad_alloc();
  if (status != VP8_STATUS_OK) {
    fail(ErrorCode::image, name,
         ": WebP: ", status == VP8_STATUS_NOT_ENOUGH_DATA ? "the file is truncated" : "corrupt data");
  }
}

int find_orientation(const WebPDemuxer* demuxer) {
  WebPChunkIterator chunk{};
  int orientation = 1;
  if (WebPDemuxGetChunk(demuxer, "EXIF", 1, &chunk)) {
    orientation = exif_orientation({chunk.chunk.bytes, chunk.chunk.size});
  }
  WebPDemuxReleaseChunkIterator(&chunk);
  return orientation;
}

}  // namespace

DecodedImage decode_webp(std::span<const uint8_t> bytes, const std::string& name) {
  WebPBitstreamFeatures features;
  const VP8StatusCode status = WebPGetFeatures(bytes.data(), bytes.size(), &features);
  if (status != VP8_STATUS_OK) {
    fail(ErrorCode::image, name,
         ": WebP: ", status == VP8_STATUS_NOT_ENOUGH_DATA ? "the file is truncated" : "no legal header");
  }
  check_file_size(name, features.width, features.height);
  const WebPData data{bytes.data(), bytes.size()};
  const std::unique_ptr<WebPDemuxer, FreeDemuxer> demuxer(WebPDemux(&data));
  FrameIterator frame;
  if (!demuxer || !WebPDemuxGetFrame(demuxer.get(), 1, &frame.it) || !frame.it.complete) {
    fail(ErrorCode::image, name, ": WebP: the file is truncated or corrupt");
  }
  DecodedImage out;
  out.image.width = static_cast<int>(WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_WIDTH));
  out.image.height = static_cast<int>(WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_HEIGHT));
  check_file_size(name, out.image.width, out.image.height);
  if (frame.it.x_offset + frame.it.width > out.image.width || frame.it.y_offset + frame.it.height > out.image.height) {
    fail(ErrorCode::image, name, ": WebP: the first frame is larger than the picture");
  }
  out.image.rgb.resize(size_t{3} * static_cast<size_t>(out.image.width) * static_cast<size_t>(out.image.height));
  decode_frame(frame.it, out.image, name);
  out.orientation = find_orientation(demuxer.get());
  return out;
}

#else

DecodedImage decode_webp(std::span<const uint8_t>, const std::string& name) {
  fail(ErrorCode::unsupported, name, ": this is a WebP picture; this program was built without libwebp and reads ",
       built_in_formats());
}

#endif

}  // namespace foveal
