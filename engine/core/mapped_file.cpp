// Maps a file after making sure that it is a regular one: opening never waits for a FIFO's writer.
#include "engine/core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "engine/core/error.h"

namespace foveal {

namespace {

struct Descriptor {
  int fd = -1;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  if (S_ISSOCK(mode)) return "a socket";
  return "not a regular file";
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::string& path) {
  if (path.find('\0') != std::string::npos) fail(ErrorCode::io, quoted(path), ": the path contains a zero byte");
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY)};
  if (file.fd < 0) {
    const int reason = errno;  // a socket can't be opened at all: ENXIO
    fail(ErrorCode::io, path, ": can't open: ", std::strerror(reason));
  }
  struct stat info;
  if (::fstat(file.fd, &info) != 0) fail(ErrorCode::io, path, ": can't read its status: ", std::strerror(errno));
  if (!S_ISREG(info.st_mode)) {
    fail(ErrorCode::io, path, ": found ", kind_of(info.st_mode), ", expected a regular file");
  }
  if (info.st_size <= 0) fail(ErrorCode::io, path, ": the file is empty");
  const auto size = static_cast<size_t>(info.st_size);
  std::shared_ptr<MappedFile> mapped(new MappedFile());
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.fd, 0);
  if (data == MAP_FAILED) fail(ErrorCode::io, path, ": can't map ", size, " bytes: ", std::strerror(errno));
  mapped->data_ = static_cast<const uint8_t*>(data);
  mapped->size_ = size;
  return mapped;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<uint8_t*>(data_), size_);
}

}  // namespace foveal
