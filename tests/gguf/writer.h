// Writes GGUF files for tests: correct by default, and wrong in any one field when a test says so.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gguf_writer {

using Bytes = std::vector<uint8_t>;

template <class T>
void put(Bytes& out, T value) {
  const size_t at = out.size();
  out.resize(at + sizeof(T));
  std::memcpy(out.data() + at, &value, sizeof(T));
}
inline void put_raw(Bytes& out, std::string_view text) {
  out.insert(out.end(), text.begin(), text.end());
}
inline void put_string(Bytes& out, std::string_view text, std::optional<uint64_t> length = {}) {
  put<uint64_t>(out, length.value_or(text.size()));
  put_raw(out, text);
}

// Value type ids of the format.
enum Type : int32_t { U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 };

struct KeyValue {
  std::string key;
  int32_t type;
  Bytes value;                         // as in the file; arrays with element type and count
  std::optional<uint64_t> key_length;  // a lie
};

struct Tensor {
  std::string name;
  std::vector<int64_t> ne;
  int32_t type = 0;
  Bytes data;
  std::optional<uint64_t> name_length, offset;  // lies
  std::optional<uint32_t> n_dims;
};

struct Document {
  std::string magic = "GGUF";
  uint32_t version = 3;
  std::optional<uint64_t> n_tensors, n_entries;  // lies
  std::vector<KeyValue> entries;
  std::vector<Tensor> tensors;
  uint64_t alignment = 32;
  Bytes tail;

  template <class T>
  Document& number(const std::string& key, int32_t type, T value) {
    Bytes bytes;
    put(bytes, value);
    return raw(key, type, bytes);
  }
  Document& u32(const std::string& key, uint32_t value) { return number(key, U32, value); }
  Document& f32(const std::string& key, float value) { return number(key, F32, value); }
  Document& string(const std::string& key, std::string_view value) {
    Bytes bytes;
    put_string(bytes, value);
    return raw(key, STR, bytes);
  }
  template <class T>
  Document& array(const std::string& key, int32_t type, const std::vector<T>& values) {
    Bytes bytes;
    put<int32_t>(bytes, type);
    put<uint64_t>(bytes, values.size());
    for (const T value : values) put(bytes, value);
    return raw(key, ARR, bytes);
  }
  Document& strings(const std::string& key, const std::vector<std::string>& values) {
    Bytes bytes;
    put<int32_t>(bytes, STR);
    put<uint64_t>(bytes, values.size());
    for (const std::string& value : values) put_string(bytes, value);
    return raw(key, ARR, bytes);
  }
  // Replaces a key that is there already.
  Document& raw(const std::string& key, int32_t type, const Bytes& value) {
    for (KeyValue& e : entries) {
      if (e.key == key) {
        e.type = type;
        e.value = value;
        return *this;
      }
    }
    entries.push_back({key, type, value, {}});
    return *this;
  }
  Document& remove(const std::string& key) {
    std::erase_if(entries, [&](const KeyValue& e) { return e.key == key; });
    return *this;
  }
  Document& tensor(const std::string& name, const std::vector<int64_t>& ne, int32_t type, const Bytes& data) {
    Tensor t;
    t.name = name;
    t.ne = ne;
    t.type = type;
    t.data = data;
    tensors.push_back(t);
    return *this;
  }
  Document& floats(const std::string& name, const std::vector<int64_t>& ne, float value = 0.5f) {
    Bytes data;
    int64_t n = 1;
    for (const int64_t d : ne) n *= d;
    for (int64_t i = 0; i < n; ++i) put(data, value);
    return tensor(name, ne, 0, data);
  }

  Bytes bytes() const {
    Bytes out;
    put_raw(out, magic);
    put(out, version);
    put<uint64_t>(out, n_tensors.value_or(tensors.size()));
    put<uint64_t>(out, n_entries.value_or(entries.size()));
    for (const KeyValue& e : entries) {
      put_string(out, e.key, e.key_length);
      put(out, e.type);
      out.insert(out.end(), e.value.begin(), e.value.end());
    }
    uint64_t offset = 0;
    for (const Tensor& t : tensors) {
      put_string(out, t.name, t.name_length);
      put<uint32_t>(out, t.n_dims.value_or(static_cast<uint32_t>(t.ne.size())));
      for (const int64_t n : t.ne) put(out, n);
      put(out, t.type);
      put<uint64_t>(out, t.offset.value_or(offset));
      offset += (t.data.size() + alignment - 1) / alignment * alignment;
    }
    for (const Tensor& t : tensors) {
      out.resize((out.size() + alignment - 1) / alignment * alignment);
      out.insert(out.end(), t.data.begin(), t.data.end());
    }
    if (!tensors.empty() && tail.empty()) out.resize((out.size() + alignment - 1) / alignment * alignment);
    out.insert(out.end(), tail.begin(), tail.end());
    return out;
  }
};

// A legal file of about 1.5 KB with every value type and several tensor types.
inline Document sample() {
  Document d;
  d.string("general.architecture", "sample");
  d.number<uint8_t>("t.u8", U8, 200).number<int8_t>("t.i8", I8, -100);
  d.number<uint16_t>("t.u16", U16, 60000).number<int16_t>("t.i16", I16, -30000);
  d.u32("t.u32", 4000000000u).number<int32_t>("t.i32", I32, -2000000000);
  d.number<uint64_t>("t.u64", U64, UINT64_MAX).number<int64_t>("t.i64", I64, INT64_MIN);
  d.f32("t.f32", 1.5f).number<double>("t.f64", F64, -2.25);
  d.number<uint8_t>("t.true", BOOL, 1).number<uint8_t>("t.false", BOOL, 0);
  d.string("t.empty", "");
  d.strings("a.str", {"one", "", "drei\n"}).array<int32_t>("a.i32", I32, {1, -2, 3});
  d.array<uint8_t>("a.bool", BOOL, {1, 0, 1}).array<float>("a.f32", F32, {0.5f, -1.0f});
  d.array<uint64_t>("a.u64", U64, {7}).array<uint8_t>("a.none", U8, {});
  d.floats("f32", {3, 5}).tensor("f16", {8}, 1, Bytes(16, 0x11));
  d.tensor("q8_0", {32, 2}, 8, Bytes(68, 0x22)).tensor("q4_k", {256, 1, 2}, 12, Bytes(288, 0x33));
  d.floats("last", {8, 1, 1, 1});
  return d;
}

}  // namespace gguf_writer
