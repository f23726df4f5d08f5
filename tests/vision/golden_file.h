// Reads the small binary files that tests/data/vision/make_data.py writes.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

class GoldenFile {
 public:
  explicit GoldenFile(const std::string& name) {
    std::ifstream in(std::string(FOVEAL_TEST_DATA) + "/vision/" + name, std::ios::binary);
    data_.assign(std::istreambuf_iterator<char>(in), {});
    if (data_.empty()) throw std::runtime_error("cannot read tests/data/vision/" + name);
  }
  int number() {
    int32_t v;
    std::memcpy(&v, take(4), 4);
    return v;
  }
  std::vector<uint8_t> bytes(int n) {
    const auto* p = reinterpret_cast<const uint8_t*>(take(static_cast<size_t>(n)));
    return {p, p + n};
  }
  std::string text(int n) { return {take(static_cast<size_t>(n)), static_cast<size_t>(n)}; }
  bool at_end() const { return at_ == data_.size(); }

 private:
  const char* take(size_t n) {
    if (n > data_.size() - at_) throw std::runtime_error("golden file is too short");
    at_ += n;
    return data_.data() + at_ - n;
  }
  std::vector<char> data_;
  size_t at_ = 0;
};
