// A read-only memory map of a regular file, unmapped when the last owner goes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace foveal {

class MappedFile {
 public:
  // Errors (io): missing, directory, FIFO or device, no permission, empty; the message holds the path and the reason.
  static std::shared_ptr<const MappedFile> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::span<const uint8_t> bytes() const { return {data_, size_}; }

 private:
  MappedFile() = default;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace foveal
