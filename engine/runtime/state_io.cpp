// Atomic file replacement.
#include "engine/runtime/state_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace foveal {

namespace {

std::string folder_of(const std::string& path) {
  const auto slash = path.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

[[noreturn]] void io_error(const std::string& path, const char* doing, int error) {
  fail(ErrorCode::io, path, ": ", doing, ": ", std::strerror(error));
}

// The temporary's descriptor and name; removed unless it was renamed.
struct Temporary {
  std::string name;
  int fd = -1;
  ~Temporary() {
    if (fd >= 0) close(fd);
    if (!name.empty()) unlink(name.c_str());
  }
};

void write_all(int fd, std::span<const uint8_t> bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) io_error(path, cat("writing, ", bytes.size(), " bytes left").c_str(), n < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

}  // namespace

void write_file_atomically(const std::string& path, std::span<const uint8_t> bytes) {
  struct stat at {};
  if (stat(path.c_str(), &at) == 0 && !S_ISREG(at.st_mode)) fail(ErrorCode::io, path, ": is not a regular file");
  Temporary temporary;
  std::string name = path + ".XXXXXX";
  temporary.fd = mkostemp(name.data(), O_CLOEXEC);  // O_EXCL, mode 0600
  if (temporary.fd < 0) io_error(path, "creating a file beside it", errno);
  temporary.name = name;
  write_all(temporary.fd, bytes, path);
  if (fsync(temporary.fd) != 0) io_error(path, "flushing to disk", errno);
  if (rename(name.c_str(), path.c_str()) != 0) io_error(path, "renaming the new file", errno);
  temporary.name.clear();
  const int folder = open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    fsync(folder);
    close(folder);
  }
}

}  // namespace foveal
