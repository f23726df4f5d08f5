// One metadata value as it lies in the file: type, element type, count, and where its bytes are. Numbers are decoded
// when asked for, so that opening a file with a vocabulary of a million words copies none of them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace foveal::gguf {

// Value type ids of the format. Read as int32 and checked before they become this type.
enum class ValueType : int32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};
constexpr int32_t kValueTypes = 13;

const char* value_type_name(ValueType type);
// Bytes of a number or bool; for strings the least that one takes (its length field); arrays: 0.
uint64_t value_type_bytes(ValueType type);
bool is_integer(ValueType type);
bool is_float(ValueType type);

struct Entry {
  std::string_view key;  // into the file
  ValueType type;        // of the value; of the elements when is_array
  bool is_array;
  uint64_t count;       // elements; 1 unless is_array
  uint64_t offset;      // of the value in the file, for messages
  const uint8_t* data;  // first element, not aligned
};

// Element `i` of numbers, bools: false when it is no integer or lies outside [min, max].
bool read_int(const Entry& entry, uint64_t i, int64_t min, int64_t max, int64_t& out);
// Element `i` as double, from floats and integers; 0 for other types.
double read_number(const Entry& entry, uint64_t i);
bool read_bool(const Entry& entry, uint64_t i);
// All strings of a string or string array, as views into the file.
std::vector<std::string_view> read_strings(const Entry& entry);

// "u32 7", "str 'llama'", "arr of 3 f32": for messages.
std::string describe_found(const Entry& entry);
// Element `i` for messages: "f32 1.5".
std::string describe_element(const Entry& entry, uint64_t i);
// For listings: "7", "'llama'", "[1, 2, 3, ... 128 u32]".
std::string printable(const Entry& entry);

}  // namespace foveal::gguf
