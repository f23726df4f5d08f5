// Split models: "name-00001-of-00003.gguf" and its siblings in the same directory.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/gguf/part.h"

namespace foveal::gguf {

struct ShardName {
  std::string prefix;  // path up to the numbers
  uint32_t number;     // 1-based, as in the name
  uint32_t count;
  std::string path_of(uint32_t number) const;
};

// nullopt when the file name isn't of that form. The path's directory part is never changed.
std::optional<ShardName> parse_shard_name(const std::string& path);

// Opens the other files of the model whose first file is parts[0], checks them against it and appends them.
// Does nothing for a model of one file. `open` maps and parses one path.
void open_siblings(std::vector<std::unique_ptr<Part>>& parts,
                   const std::function<std::unique_ptr<Part>(const std::string&)>& open);

}  // namespace foveal::gguf
