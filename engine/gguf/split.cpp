// Finds the other files of a split model by the first one's name, never by a path from inside a file, and checks that
// they belong together.
#include "engine/gguf/split.h"

#include <cstdio>

#include "engine/gguf/cursor.h"

namespace foveal::gguf {

namespace {

constexpr int64_t kMostShards = 65535;  // u16 in the file

// The five digits of a shard's name; nullopt for anything else and for 0.
std::optional<uint32_t> shard_digits(std::string_view text) {
  if (text.size() != 5) return std::nullopt;
  uint32_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<uint32_t>(c - '0');
  }
  if (value == 0) return std::nullopt;
  return value;
}

std::optional<int64_t> find_split_int(const Part& part, const char* key, int64_t min, int64_t max) {
  const Entry* entry = part.find(key);
  if (!entry) return std::nullopt;
  int64_t value;
  if (entry->is_array || !read_int(*entry, 0, min, max, value)) {
    fail(ErrorCode::file_format, at_offset(part.file, entry->offset), "key '", key, "': expected an integer from ", min,
         " to ", max, ", found ", describe_found(*entry));
  }
  return value;
}

void check_first(const Part& first, int64_t count, const std::optional<ShardName>& name) {
  const int64_t number = find_split_int(first, "split.no", 0, kMostShards).value_or(0);
  if (!name) {
    fail(ErrorCode::file_format, first.file, ": this is part ", number + 1, " of ", count,
         " of a split model, expected a name that ends in '-00001-of-000NN.gguf': give the parts their original names");
  }
  if (number != 0 || name->number != 1) {
    fail(ErrorCode::file_format, first.file, ": this is part ", number + 1, " of ", count, " of a split model: open ",
         name->path_of(1), " instead");
  }
  if (static_cast<int64_t>(name->count) != count) {
    fail(ErrorCode::file_format, first.file, ": the name says ", name->count, " parts, key 'split.count' says ", count);
  }
}

void check_sibling(const Part& part, int64_t index, int64_t count) {
  const auto number = find_split_int(part, "split.no", 0, kMostShards);
  if (number != index) {
    fail(ErrorCode::file_format, part.file, ": expected key 'split.no' to be ", index, ", found ",
         number ? std::to_string(*number) : std::string("none"), ": a file of another model or a renamed part?");
  }
  const auto own_count = find_split_int(part, "split.count", 1, kMostShards);
  if (own_count && own_count != count) {
    fail(ErrorCode::file_format, part.file, ": expected key 'split.count' to be ", count, ", found ", *own_count,
         ": a file of another model?");
  }
}

std::unique_ptr<Part> open_part(const std::function<std::unique_ptr<Part>(const std::string&)>& open,
                                const std::string& path, int64_t number, int64_t count) {
  try {
    return open(path);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::io) throw;
    fail(ErrorCode::io, "part ", number, " of ", count, " of the split model is missing: ", error.what());
  }
}

}  // namespace

std::string ShardName::path_of(uint32_t wanted) const {
  char numbers[32];
  std::snprintf(numbers, sizeof(numbers), "-%05u-of-%05u.gguf", wanted, count);
  return prefix + numbers;
}

std::optional<ShardName> parse_shard_name(const std::string& path) {
  constexpr std::string_view kForm = "-00001-of-00003.gguf";
  const std::string_view all(path);
  if (all.size() <= kForm.size()) return std::nullopt;
  const std::string_view tail = all.substr(all.size() - kForm.size());
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-" || tail.substr(15) != ".gguf") return std::nullopt;
  const auto number = shard_digits(tail.substr(1, 5));
  const auto count = shard_digits(tail.substr(10, 5));
  if (!number || !count || *number > *count) return std::nullopt;
  return ShardName{std::string(all.substr(0, all.size() - kForm.size())), *number, *count};
}

void open_siblings(std::vector<std::unique_ptr<Part>>& parts,
                   const std::function<std::unique_ptr<Part>(const std::string&)>& open) {
  const Part& first = *parts[0];
  const auto name = parse_shard_name(first.file);
  const int64_t count = find_split_int(first, "split.count", 0, kMostShards).value_or(1);
  if (count <= 1) {
    if (name && name->count > 1) {
      parts[0]->warnings.push_back(
          cat(first.file,
              ": named like a part of a split model, but without key 'split.count': ", "read as a whole model"));
    }
    return;
  }
  check_first(first, count, name);
  size_t tensors = first.tensors.size();
  for (int64_t i = 1; i < count; ++i) {
    const std::string path = name->path_of(static_cast<uint32_t>(i + 1));
    parts.push_back(open_part(open, path, i + 1, count));
    check_sibling(*parts.back(), i, count);
    tensors += parts.back()->tensors.size();
  }
  const auto stated = find_split_int(first, "split.tensors.count", 0, INT64_MAX);
  if (stated && static_cast<uint64_t>(*stated) != tensors) {
    fail(ErrorCode::file_format, first.file, ": key 'split.tensors.count' says ", *stated, " tensors, the ", count,
         " parts hold ", tensors);
  }
}

}  // namespace foveal::gguf
