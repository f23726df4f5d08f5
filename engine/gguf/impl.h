// What a Gguf object holds.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/gguf/gguf.h"
#include "engine/gguf/part.h"

namespace foveal {

struct Gguf::Impl {
  std::string path;
  std::vector<std::unique_ptr<gguf::Part>> parts;  // at least one; metadata comes from the first
  std::vector<TensorInfo> tensors;                 // of all parts
  std::vector<size_t> by_name;                     // tensors sorted by name
  std::vector<std::string> warnings;

  // Copies made for the accessors that hand out references, by the entry's address.
  mutable std::mutex copies_mutex;
  mutable std::map<const gguf::Entry*, std::vector<std::string>> copies;

  const gguf::Entry* find(std::string_view key) const { return parts[0]->find(key); }
  // Moves the parts' tensors and warnings together; file_format when a tensor name occurs in two parts.
  void join_parts();
  // Throws file_format: "FILE: at offset O: key 'K': expected E, found F".
  [[noreturn]] void wrong(const gguf::Entry& entry, const std::string& expected, const std::string& found) const;
  [[noreturn]] void missing(std::string_view key, const std::string& expected) const;
  // nullptr when absent; otherwise an array with a legal length.
  const gguf::Entry* find_array(std::string_view key, const std::string& of, uint64_t min_n, uint64_t max_n) const;
  const gguf::Entry* find_scalar(std::string_view key, const std::string& expected) const;
  const std::vector<std::string>& copied_strings(const gguf::Entry& entry) const;
};

}  // namespace foveal
