// Reads GGUF (versions 2 and 3, little-endian, also split files): metadata through one typed, ranged accessor,
// tensor descriptions checked against the real file size before anything is used.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/error.h"
#include "engine/core/mapped_file.h"
#include "kernels/quant/types.h"

namespace foveal {

struct TensorInfo {
  std::string name;
  TensorType type;
  std::vector<int64_t> ne;  // ggml order, ne[0] contiguous; 1 to 4 dims, each >= 1
  const uint8_t* data;      // into the mapping, `bytes` long
  uint64_t bytes;
  int64_t cols() const { return ne[0]; }
  int64_t rows() const;       // product of the other dims
  std::string shape() const;  // "[256, 448]"
};

// A metadata value. Numbers keep the file's type; arrays hold one element type and are never nested.
struct MetaValue;

class Gguf {
 public:
  // Opens and maps a file (and, for "-00001-of-0000N.gguf", its siblings). Errors: io, file_format, unsupported.
  static std::shared_ptr<const Gguf> open(const std::string& path);
  // Parses bytes in memory (tests and fuzzing); `name` stands in messages. The bytes must outlive the object.
  static std::shared_ptr<const Gguf> parse(std::span<const uint8_t> bytes, const std::string& name);
  ~Gguf();

  const std::string& path() const;
  uint32_t version() const;
  uint64_t file_bytes() const;  // all parts
  const std::vector<std::string>& warnings() const;

  bool has(std::string_view key) const;
  bool is_array(std::string_view key) const;  // false when absent
  // Typed, ranged access. A wrong type, a number outside [min, max], NaN or Inf, or a missing required key is
  // file_format, naming file, key, found and expected. Any integer width is accepted for integers; F32/F64 for floats
  // (an integer also reads as float).
  int64_t get_int(std::string_view key, int64_t min, int64_t max) const;
  std::optional<int64_t> find_int(std::string_view key, int64_t min, int64_t max) const;
  double get_float(std::string_view key, double min, double max) const;
  std::optional<double> find_float(std::string_view key, double min, double max) const;
  std::optional<bool> find_bool(std::string_view key) const;
  const std::string& get_string(std::string_view key) const;
  const std::string* find_string(std::string_view key) const;
  // Arrays: nullptr / nullopt when absent; the length must lie in [min_n, max_n].
  const std::vector<std::string>* find_strings(std::string_view key, uint64_t min_n, uint64_t max_n) const;
  // The same without copying: views into the file, valid as long as this object (or parse()'s bytes) lives.
  std::optional<std::vector<std::string_view>> find_string_views(std::string_view key, uint64_t min_n,
                                                                 uint64_t max_n) const;
  std::optional<std::vector<int64_t>> find_ints(std::string_view key, uint64_t min_n, uint64_t max_n, int64_t min,
                                                int64_t max) const;
  std::optional<std::vector<float>> find_floats(std::string_view key, uint64_t min_n, uint64_t max_n) const;
  std::optional<std::vector<bool>> find_bools(std::string_view key, uint64_t min_n, uint64_t max_n) const;

  const std::vector<TensorInfo>& tensors() const;
  const TensorInfo* find_tensor(std::string_view name) const;
  // Required tensor of exactly this shape (ggml order; trailing 1s ignored): file_format naming both shapes otherwise.
  const TensorInfo& tensor(std::string_view name, std::initializer_list<int64_t> ne) const;
  const TensorInfo& tensor(std::string_view name) const;  // any shape

  // For `foveal info`: keys in file order, each with a printable value (arrays cut to a few elements).
  std::vector<std::pair<std::string, std::string>> describe_metadata() const;

 private:
  Gguf();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace foveal
