// Seeds made from the fixture models: the metadata as it is, the tensors left out or made small.
#pragma once

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

#include "tests/fuzz/structure.h"

namespace fuzz {

inline Document fixture(const std::string& name) {
  const std::string path = std::string(FOVEAL_TEST_DATA) + "/" + name;
  Bytes bytes(std::filesystem::file_size(path));
  std::ifstream(path, std::ios::binary)
      .read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  auto document = take_apart(bytes);
  if (!document) throw std::runtime_error("can't read the seed " + name);
  return *document;
}

// A text model's file without its weights: what a tokenizer, a chat template and a header need.
inline Document header_of(const std::string& family) {
  Document d = fixture(family + "/model-f16.gguf");
  d.tensors.clear();
  return d;
}

}  // namespace fuzz
