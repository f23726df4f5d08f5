// Memory of a pretended GPU: closed to everybody unless a call of its backend is running, so that any other access is a
// segmentation fault; what is given back becomes not-a-number; the n-th allocation can be made to fail.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <string>

#include "engine/core/error.h"
#include "engine/core/tensor.h"

namespace guarded {

struct Settings {
  uint64_t total = 256u << 20;  // bytes of its memory
  std::string none_because;     // not empty: there is no GPU
  long fail_at = -1;            // the allocation of this number (from 0) fails
  long allocations = 0;         // so far
  uint64_t used = 0, peak = 0;  // bytes
  long copies_in = 0, largest_in = 0;
  bool locked = true;                  // there is page-locked host memory
  bool graphs = true;                  // work can be captured
  long captured = 0, replayed = 0;     // graphs, and how often they ran
  bool eager = false;                  // copies beside the work run as soon as they may, not as late as they may
  long copies = 0, fail_copy_at = -1;  // between the sides; the copy of this number (from 0) fails
};
inline Settings settings;

// First fit over one mapping that is closed unless a call is running.
class Arena final : public foveal::Memory {
 public:
  explicit Arena(size_t bytes) : bytes_(bytes) {
    base_ = static_cast<char*>(mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    free_[0] = bytes;
  }
  ~Arena() override { munmap(base_, bytes_); }
  void* allocate(size_t n) override {
    n = (n + 255) / 256 * 256;
    if (settings.allocations++ == settings.fail_at) refuse(n);
    for (auto& [at, room] : free_) {
      if (room < n) continue;
      const size_t start = at, left = room - n;
      free_.erase(at);
      if (left > 0) free_[start + n] = left;
      taken_[start] = n;
      settings.used += n;
      settings.peak = std::max(settings.peak, settings.used);
      return base_ + start;
    }
    refuse(n);
  }
  void release(void* p) noexcept override {
    const auto start = static_cast<size_t>(static_cast<char*>(p) - base_);
    const size_t n = taken_.at(start);
    taken_.erase(start);
    settings.used -= n;
    open();
    std::memset(p, 0xff, n);  // not a number
    close();
    free_[start] = n;
    for (auto it = free_.begin(); it != free_.end();) {
      const auto next = std::next(it);
      if (next != free_.end() && it->first + it->second == next->first) {
        it->second += next->second;
        free_.erase(next);
      } else {
        it = next;
      }
    }
  }
  void open() noexcept { mprotect(base_, bytes_, PROT_READ | PROT_WRITE); }
  void close() noexcept { mprotect(base_, bytes_, PROT_NONE); }
  bool holds(const void* p) const { return p >= base_ && p < base_ + bytes_; }

 private:
  [[noreturn]] static void refuse(size_t n) {
    foveal::fail(foveal::ErrorCode::out_of_memory, "guarded gpu: no room for ", n, " bytes");
  }
  size_t bytes_;
  char* base_;
  std::map<size_t, size_t> free_, taken_;
};

}  // namespace guarded
