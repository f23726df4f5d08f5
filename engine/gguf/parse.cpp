// Header and metadata of one file. Nothing is allocated for a count before the file is seen to be long enough for it.
#include <algorithm>

#include "engine/gguf/cursor.h"
#include "engine/gguf/part.h"
#include "engine/gguf/sniff.h"

namespace foveal::gguf {

namespace {

constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;           // key length, key, type, value
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;  // name length, name, n_dims, ne, type, offset
constexpr uint32_t kOldest = 2, kNewest = 3;

void check_magic(const Part& part) {
  const std::string_view start(reinterpret_cast<const char*>(part.bytes.data()),
                               std::min<size_t>(part.bytes.size(), 4));
  if (start == "GGUF") return;
  if (!start.empty() && std::string_view("GGUF").starts_with(start)) {
    fail(ErrorCode::file_format, at_offset(part.file, 0), "the file ends after ", start.size(),
         " bytes, download incomplete?");
  }
  fail(ErrorCode::file_format, at_offset(part.file, 0), "not a GGUF file: expected 'GGUF', found ",
       describe_foreign_file(part.bytes));
}

uint32_t read_version(Cursor& cursor) {
  const uint64_t at = cursor.position();
  const auto version = cursor.read<uint32_t>("the version");
  if (version >= kOldest && version <= kNewest) return version;
  const uint32_t swapped = __builtin_bswap32(version);
  if (version != 0 && (version & 0xFFFF) == 0 && swapped <= kNewest) {
    cursor.reject(ErrorCode::unsupported, at, "a big-endian GGUF file (version ", swapped,
                  " in the other byte order), expected little-endian: convert the original model again");
  }
  cursor.reject(ErrorCode::unsupported, at, "GGUF version ", version, ", expected 2 or 3",
                version == 1        ? ": convert the original model again"
                : version > kNewest ? ": a newer engine is needed"
                                    : "");
}

uint64_t read_count(Cursor& cursor, const char* what, uint64_t min_bytes_each) {
  const uint64_t at = cursor.position();
  const auto count = cursor.read<uint64_t>(what);
  if (count > cursor.left() / min_bytes_each) {
    cursor.reject(ErrorCode::file_format, at, what, " is ", count, ", of at least ", min_bytes_each,
                  " bytes each, but only ", cursor.left(), " bytes are left in the file of ",
                  cursor.position() + cursor.left(), " bytes: damaged or incomplete");
  }
  return count;
}

std::string_view read_key(Cursor& cursor) {
  cursor.set_subject("");
  const uint64_t at = cursor.position();
  const std::string_view key = cursor.read_string("a metadata key");
  if (key.empty() || key.size() > kMaxKeyBytes) {
    cursor.reject(ErrorCode::file_format, at, "a metadata key of ", key.size(), " bytes, expected 1 to ", kMaxKeyBytes);
  }
  if (!is_clean_utf8(key)) {
    cursor.reject(ErrorCode::file_format, at, "metadata key ", quoted(key), " is not UTF-8 text without NUL");
  }
  return key;
}

ValueType read_type(Cursor& cursor, const char* what) {
  const uint64_t at = cursor.position();
  const auto type = cursor.read<int32_t>(what);
  if (type < 0 || type >= kValueTypes) {
    cursor.reject(ErrorCode::file_format, at, what, " is ", type, ", expected 0 to ", kValueTypes - 1);
  }
  return static_cast<ValueType>(type);
}

void skip_elements(Cursor& cursor, ValueType type, uint64_t count, const char* what) {
  if (type != ValueType::string) return cursor.skip(count, value_type_bytes(type), what);
  if (count > cursor.left() / value_type_bytes(type)) cursor.skip(count, value_type_bytes(type), what);  // throws
  for (uint64_t i = 0; i < count; ++i) cursor.read_string(what);
}

Entry read_entry(Cursor& cursor) {
  Entry entry{};
  entry.key = read_key(cursor);
  cursor.set_subject(cat("key ", quoted(entry.key)));
  entry.type = read_type(cursor, "the value type");
  entry.count = 1;
  entry.is_array = entry.type == ValueType::array;
  entry.offset = cursor.position();
  if (entry.is_array) {
    entry.type = read_type(cursor, "the array's element type");
    if (entry.type == ValueType::array) {
      cursor.reject(ErrorCode::file_format, entry.offset, "an array of arrays, expected numbers, bools or strings");
    }
    entry.count = cursor.read<uint64_t>("the array's length");
  }
  entry.data = cursor.here();
  skip_elements(cursor, entry.type, entry.count, entry.is_array ? "the array" : "the value");
  return entry;
}

void index_entries(Part& part) {
  const auto key_of = [&](size_t i) { return part.entries[i].key; };
  part.by_key.resize(part.entries.size());
  for (size_t i = 0; i < part.by_key.size(); ++i) part.by_key[i] = i;
  std::sort(part.by_key.begin(), part.by_key.end(), [&](size_t a, size_t b) { return key_of(a) < key_of(b); });
  const auto same = [&](size_t a, size_t b) { return key_of(a) == key_of(b); };
  const auto twice = std::adjacent_find(part.by_key.begin(), part.by_key.end(), same);
  if (twice == part.by_key.end()) return;
  const uint64_t later = std::max(part.entries[*twice].offset, part.entries[*(twice + 1)].offset);
  fail(ErrorCode::file_format, at_offset(part.file, later), "key ", quoted(key_of(*twice)),
       " occurs twice, expected once");
}

}  // namespace

const Entry* Part::find(std::string_view key) const {
  const auto before = [&](size_t i, std::string_view k) { return entries[i].key < k; };
  const auto it = std::lower_bound(by_key.begin(), by_key.end(), key, before);
  return it != by_key.end() && entries[*it].key == key ? &entries[*it] : nullptr;
}

void parse(Part& part) {
  check_magic(part);
  Cursor cursor(part.bytes, part.file);
  cursor.skip(4, 1, "the magic");
  part.version = read_version(cursor);
  const uint64_t n_tensors = read_count(cursor, "the number of tensors", kMinTensorBytes);
  const uint64_t n_entries = read_count(cursor, "the number of metadata entries", kMinEntryBytes);
  part.entries.reserve(static_cast<size_t>(n_entries));
  for (uint64_t i = 0; i < n_entries; ++i) part.entries.push_back(read_entry(cursor));
  index_entries(part);
  parse_tensors(part, cursor, n_tensors);
}

}  // namespace foveal::gguf
