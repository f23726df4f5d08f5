// Reads a picture's file whole, within limits, and decodes it.
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "tools/image_file/image_file.h"

namespace foveal {

namespace {
constexpr off_t kMaxBytes = off_t{64} << 20;
}

Image read_image_file(const std::string& path) {
  struct stat at {};
  if (stat(path.c_str(), &at) != 0) fail(ErrorCode::io, path, ": ", std::strerror(errno));
  if (!S_ISREG(at.st_mode)) fail(ErrorCode::io, path, ": is not a regular file; expected a picture");
  if (at.st_size > kMaxBytes)
    fail(ErrorCode::image, path, ": found ", at.st_size, " bytes, expected at most ", kMaxBytes);
  std::vector<uint8_t> bytes(static_cast<size_t>(at.st_size));
  std::ifstream in(path, std::ios::binary);
  if (!in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size())))
    fail(ErrorCode::io, path, ": ", std::strerror(errno));
  return decode_image(bytes, path);
}

}  // namespace foveal
