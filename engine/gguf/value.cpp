// Decoding and printing of metadata values. The reader has made sure that all their bytes are in the file.
#include "engine/gguf/value.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "engine/core/error.h"

namespace foveal::gguf {

namespace {

struct TypeRow {
  const char* name;
  uint64_t bytes;
};
constexpr TypeRow kTypes[kValueTypes] = {{"u8", 1},  {"i8", 1},  {"u16", 2},  {"i16", 2}, {"u32", 4},
                                         {"i32", 4}, {"f32", 4}, {"bool", 1}, {"str", 8}, {"arr", 0},
                                         {"u64", 8}, {"i64", 8}, {"f64", 8}};

const TypeRow& row(ValueType type) {
  return kTypes[static_cast<size_t>(type)];
}

template <class T>
T load(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

// Any integer element; u64 above the signed range is cut to its maximum and `too_big` set.
int64_t load_int(ValueType type, const uint8_t* at, bool& too_big) {
  too_big = false;
  switch (type) {
    case ValueType::u8:
      return load<uint8_t>(at);
    case ValueType::i8:
      return load<int8_t>(at);
    case ValueType::u16:
      return load<uint16_t>(at);
    case ValueType::i16:
      return load<int16_t>(at);
    case ValueType::u32:
      return load<uint32_t>(at);
    case ValueType::i32:
      return load<int32_t>(at);
    case ValueType::u64: {
      const auto value = load<uint64_t>(at);
      too_big = value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
      return too_big ? std::numeric_limits<int64_t>::max() : static_cast<int64_t>(value);
    }
    default:
      return load<int64_t>(at);
  }
}

const uint8_t* element(const Entry& entry, uint64_t i) {
  return entry.data + i * value_type_bytes(entry.type);
}

std::string print_element(const Entry& entry, uint64_t i) {
  const uint8_t* at = element(entry, i);
  if (entry.type == ValueType::u64) return std::to_string(load<uint64_t>(at));
  if (entry.type == ValueType::boolean) return *at != 0 ? "true" : "false";
  if (is_float(entry.type)) return cat(read_number(entry, i));
  bool too_big;
  return std::to_string(load_int(entry.type, at, too_big));
}

// The first `limit` strings: an array may hold millions.
std::vector<std::string_view> first_strings(const Entry& entry, uint64_t limit) {
  std::vector<std::string_view> out;
  const uint64_t n = std::min(entry.count, limit);
  out.reserve(static_cast<size_t>(n));
  const uint8_t* at = entry.data;
  for (uint64_t i = 0; i < n; ++i) {
    const auto length = load<uint64_t>(at);
    out.emplace_back(reinterpret_cast<const char*>(at) + sizeof(length), static_cast<size_t>(length));
    at += sizeof(length) + length;
  }
  return out;
}

}  // namespace

const char* value_type_name(ValueType type) {
  return row(type).name;
}
uint64_t value_type_bytes(ValueType type) {
  return row(type).bytes;
}
bool is_float(ValueType type) {
  return type == ValueType::f32 || type == ValueType::f64;
}
bool is_integer(ValueType type) {
  return !is_float(type) && type != ValueType::boolean && type != ValueType::string && type != ValueType::array;
}

bool read_int(const Entry& entry, uint64_t i, int64_t min, int64_t max, int64_t& out) {
  if (!is_integer(entry.type)) return false;
  bool too_big;
  out = load_int(entry.type, element(entry, i), too_big);
  return !too_big && out >= min && out <= max;
}

double read_number(const Entry& entry, uint64_t i) {
  const uint8_t* at = element(entry, i);
  if (entry.type == ValueType::f32) return static_cast<double>(load<float>(at));
  if (entry.type == ValueType::f64) return load<double>(at);
  if (entry.type == ValueType::u64) return static_cast<double>(load<uint64_t>(at));
  if (!is_integer(entry.type)) return 0;
  bool too_big;
  return static_cast<double>(load_int(entry.type, at, too_big));
}

bool read_bool(const Entry& entry, uint64_t i) {
  return *element(entry, i) != 0;
}

std::vector<std::string_view> read_strings(const Entry& entry) {
  return first_strings(entry, entry.count);
}

std::string describe_element(const Entry& entry, uint64_t i) {
  return cat(value_type_name(entry.type), " ", print_element(entry, i));
}

std::string describe_found(const Entry& entry) {
  if (entry.is_array) return cat("arr of ", entry.count, " ", value_type_name(entry.type));
  if (entry.type == ValueType::string) return cat("str ", quoted(first_strings(entry, 1)[0]));
  return describe_element(entry, 0);
}

std::string printable(const Entry& entry) {
  constexpr uint64_t kShown = 6;
  std::vector<std::string_view> strings;
  if (entry.type == ValueType::string) strings = first_strings(entry, kShown);
  const auto item = [&](uint64_t i) {
    return entry.type == ValueType::string ? quoted(strings[static_cast<size_t>(i)]) : print_element(entry, i);
  };
  if (!entry.is_array) return item(0);
  std::string out = "[";
  for (uint64_t i = 0; i < std::min(entry.count, kShown); ++i) out += (i ? ", " : "") + item(i);
  if (entry.count > kShown) out += cat(", ... ", entry.count, " ", value_type_name(entry.type));
  return out + "]";
}

}  // namespace foveal::gguf
