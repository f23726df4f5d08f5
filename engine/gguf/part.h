// One GGUF file, parsed and checked: its metadata entries and its tensors. A split model is several of these.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/mapped_file.h"
#include "engine/gguf/gguf.h"
#include "engine/gguf/value.h"

namespace foveal::gguf {

struct Part {
  std::string file;                           // name for messages
  std::shared_ptr<const MappedFile> mapping;  // empty when the caller owns the bytes
  std::span<const uint8_t> bytes;
  uint32_t version = 0;
  std::vector<Entry> entries;       // in file order
  std::vector<size_t> by_key;       // entries sorted by key
  std::vector<TensorInfo> tensors;  // in file order
  std::vector<std::string> warnings;

  const Entry* find(std::string_view key) const;
};

// Parses `part.bytes`; errors name `part.file`. Throws file_format and unsupported.
void parse(Part& part);

// The tensor descriptions that follow the metadata: `cursor` stands on the first. Fills part.tensors.
class Cursor;
void parse_tensors(Part& part, Cursor& cursor, uint64_t count);

}  // namespace foveal::gguf
