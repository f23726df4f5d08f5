// Files that must be refused, each with the error that names what is wrong; and a file cut at every byte.
#include <chrono>
#include <functional>
#include <limits>

#include "engine/gguf/gguf.h"
#include "tests/check.h"
#include "tests/gguf/writer.h"

using namespace gguf_writer;
using foveal::ErrorCode;
using foveal::Gguf;

namespace {

constexpr ErrorCode kFormat = ErrorCode::file_format, kUnsupported = ErrorCode::unsupported;
constexpr uint64_t kHuge = uint64_t{1} << 63;

struct Case {
  const char* name;
  ErrorCode code;
  const char* message;
  std::function<void(Document&)> change;  // of sample()
};

// Code and message of the error that `bytes` give; "" when they are accepted.
struct Outcome {
  ErrorCode code = ErrorCode::state;
  std::string message;
};
Outcome parse(const Bytes& bytes) {
  // An exact heap copy, so that a sanitizer sees any read past the end.
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[bytes.size()]);
  if (!bytes.empty()) std::memcpy(exact.get(), bytes.data(), bytes.size());
  try {
    Gguf::parse({exact.get(), bytes.size()}, "bad.gguf");
    return {};
  } catch (const foveal::Error& error) {
    return {error.code(), error.what()};
  }
}

void expect(const char* name, const Bytes& bytes, ErrorCode code, const char* message) {
  const Outcome found = parse(bytes);
  const bool right =
      found.code == code && found.message.find(message) != std::string::npos && found.message.starts_with("bad.gguf: ");
  if (!right) check::failed(name, 0, "expected '" + std::string(message) + "', found '" + found.message + "'");
}

void run(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    Document d = sample();
    c.change(d);
    expect(c.name, d.bytes(), c.code, c.message);
  }
  CHECK_EQ(parse(sample().bytes()).message, "");
}

KeyValue& entry(Document& d, const char* key) {
  for (KeyValue& e : d.entries) {
    if (e.key == key) return e;
  }
  throw std::runtime_error("no such key");
}

// An array value with a count that isn't true.
Bytes array_value(int32_t type, uint64_t count, const Bytes& elements = {}) {
  Bytes out;
  put(out, type);
  put(out, count);
  out.insert(out.end(), elements.begin(), elements.end());
  return out;
}

}  // namespace

TEST(header) {
  run({
      {"bad magic", kFormat, "'FUGG'", [](Document& d) { d.magic = "FUGG"; }},
      {"version 0", kUnsupported, "GGUF version 0, expected 2 or 3", [](Document& d) { d.version = 0; }},
      {"version 1", kUnsupported, "GGUF version 1, expected 2 or 3", [](Document& d) { d.version = 1; }},
      {"version 4", kUnsupported, "GGUF version 4, expected 2 or 3", [](Document& d) { d.version = 4; }},
      {"big-endian", kUnsupported, "big-endian GGUF file (version 3", [](Document& d) { d.version = 3u << 24; }},
      {"n_kv -1", kFormat, "number of metadata entries is 18446744073709551615",
       [](Document& d) { d.n_entries = UINT64_MAX; }},
      {"n_kv 2^63", kFormat, "at offset 0x10: the number of metadata entries",
       [](Document& d) { d.n_entries = kHuge; }},
      {"n_kv over file", kFormat, "number of metadata entries is 1000", [](Document& d) { d.n_entries = 1000; }},
      {"n_tensors -1", kFormat, "number of tensors is 18446744073709551615",
       [](Document& d) { d.n_tensors = UINT64_MAX; }},
      {"n_tensors 2^63", kFormat, "at offset 0x8: the number of tensors", [](Document& d) { d.n_tensors = kHuge; }},
      {"n_tensors over file", kFormat, "number of tensors is 1000", [](Document& d) { d.n_tensors = 1000; }},
      {"one tensor too many", kFormat, "a tensor name", [](Document& d) { d.n_tensors = d.tensors.size() + 1; }},
      {"one entry too many", kFormat, "at offset", [](Document& d) { d.n_entries = d.entries.size() + 1; }},
  });
}

TEST(keys_and_values) {
  const Bytes inner = array_value(U8, 1, {1});
  run({
      {"key size -1", kFormat, "18446744073709551615 bytes long",
       [](Document& d) { d.entries[3].key_length = UINT64_MAX; }},
      {"key size 2^63", kFormat, "9223372036854775808 bytes long",
       [](Document& d) { d.entries[3].key_length = kHuge; }},
      {"empty key", kFormat, "key of 0 bytes", [](Document& d) { d.entries[3].key = ""; }},
      {"long key", kFormat, "key of 65536 bytes", [](Document& d) { d.entries[3].key = std::string(65536, 'k'); }},
      {"NUL in key", kFormat, "'t.u8\\x00'", [](Document& d) { d.entries[3].key = std::string("t.u8\0", 5); }},
      {"key not UTF-8", kFormat, "'t.\\xff'", [](Document& d) { d.entries[3].key = "t.\xFF"; }},
      {"key overlong UTF-8", kFormat, "UTF-8", [](Document& d) { d.entries[3].key = "t.\xC0\xAF"; }},
      {"key surrogate", kFormat, "UTF-8", [](Document& d) { d.entries[3].key = "t.\xED\xA0\x80"; }},
      {"key past Unicode", kFormat, "UTF-8", [](Document& d) { d.entries[3].key = "t.\xF4\x90\x80\x80"; }},
      {"key cut UTF-8", kFormat, "UTF-8", [](Document& d) { d.entries[3].key = "t.\xE2\x82"; }},
      {"type 13", kFormat, "the value type is 13, expected 0 to 12", [](Document& d) { entry(d, "t.u8").type = 13; }},
      {"type -1", kFormat, "key 't.u8': the value type is -1", [](Document& d) { entry(d, "t.u8").type = -1; }},
      {"duplicate key", kFormat, "key 't.i8' occurs twice", [](Document& d) { entry(d, "t.i16").key = "t.i8"; }},
      {"string value 2^40", kFormat, "key 't.empty': the value is 1099511627776 bytes long",
       [](Document& d) {
         Bytes value;
         put<uint64_t>(value, uint64_t{1} << 40);
         d.raw("t.empty", STR, value);
       }},
      {"array 2^63", kFormat, "the array has 9223372036854775808 elements",
       [](Document& d) { d.raw("a.i32", ARR, array_value(U8, kHuge)); }},
      {"array 2^62 of 8 bytes", kFormat, "the array has 4611686018427387904 elements of at least 8",
       [](Document& d) { d.raw("a.i32", ARR, array_value(U64, kHuge >> 1)); }},
      {"array 2^61 of str", kFormat, "the array has 2305843009213693952 elements",
       [](Document& d) { d.raw("a.i32", ARR, array_value(STR, kHuge >> 2)); }},
      {"array element past the end", kFormat, "the array is 999999 bytes long",
       [](Document& d) {
         Bytes text;
         put<uint64_t>(text, 999999);
         d.raw("a.i32", ARR, array_value(STR, 1, text));
       }},
      {"array type 13", kFormat, "element type is 13", [](Document& d) { d.raw("a.i32", ARR, array_value(13, 0)); }},
      {"array type -1", kFormat, "element type is -1", [](Document& d) { d.raw("a.i32", ARR, array_value(-1, 0)); }},
      {"nested array", kFormat, "key 'a.i32': an array of arrays",
       [&](Document& d) { d.raw("a.i32", ARR, array_value(ARR, 1, inner)); }},
      {"nested array, 10^5 deep", kFormat, "an array of arrays",
       [](Document& d) {
         Bytes deep;
         for (int i = 0; i < 100000; ++i) {
           put<int32_t>(deep, ARR);
           put<uint64_t>(deep, 1);
         }
         d.raw("a.i32", ARR, deep);
       }},
  });
}

TEST(alignment) {
  const auto set = [](uint32_t value) { return [value](Document& d) { d.u32("general.alignment", value); }; };
  run({
      {"alignment 13", kFormat, "power of two from 1 to 65536, found u32 13", set(13)},
      {"alignment 0", kFormat, "found u32 0", set(0)},
      {"alignment 3", kFormat, "key 'general.alignment'", set(3)},
      {"alignment 2^17", kFormat, "found u32 131072", set(1u << 17)},
      {"alignment 2^31", kFormat, "found u32 2147483648", set(1u << 31)},
      {"alignment i32", kFormat, "found i32 32", [](Document& d) { d.number<int32_t>("general.alignment", I32, 32); }},
      {"alignment u64", kFormat, "found u64 32", [](Document& d) { d.number<uint64_t>("general.alignment", U64, 32); }},
      {"alignment array", kFormat, "found arr of 1 u32",
       [](Document& d) { d.array<uint32_t>("general.alignment", U32, {32}); }},
      {"alignment text", kFormat, "found str '32'", [](Document& d) { d.string("general.alignment", "32"); }},
      {"offsets for another alignment", kFormat, "data offset 64 not aligned",
       [](Document& d) { d.u32("general.alignment", 128); }},
      {"offsets for a smaller alignment", kFormat, "data offset 64 leaves a gap, expected 60",
       [](Document& d) { d.u32("general.alignment", 4); }},
  });
  for (const uint32_t good : {1u, 2u, 32u, 4096u, 65536u}) {
    Document d = sample();
    d.u32("general.alignment", good);
    d.alignment = good;
    CHECK_EQ(parse(d.bytes()).message, "");
  }
}

TEST(tensor_descriptions) {
  const auto dims = [](std::vector<int64_t> ne) { return [ne](Document& d) { d.tensors[1].ne = ne; }; };
  const auto type = [](int32_t id) { return [id](Document& d) { d.tensors[1].type = id; }; };
  const auto offset = [](uint64_t at) { return [at](Document& d) { d.tensors[2].offset = at; }; };
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  run({
      {"name size 64", kFormat, "tensor name of 64 bytes, expected 1 to 63",
       [](Document& d) { d.tensors[1].name = std::string(64, 'n'); }},
      {"name size 0", kFormat, "tensor name of 0 bytes", [](Document& d) { d.tensors[1].name = ""; }},
      {"name size -1", kFormat, "18446744073709551615 bytes long",
       [](Document& d) { d.tensors[1].name_length = UINT64_MAX; }},
      {"NUL in name", kFormat, "'f16\\x00'", [](Document& d) { d.tensors[1].name = std::string("f16\0", 4); }},
      {"name not UTF-8", kFormat, "'\\x80'", [](Document& d) { d.tensors[1].name = "\x80"; }},
      {"duplicate name", kFormat, "tensor 'f32' occurs twice", [](Document& d) { d.tensors[1].name = "f32"; }},
      {"0 dims", kFormat, "tensor 'f16': 0 dimensions", [](Document& d) { d.tensors[1].n_dims = 0; }},
      {"5 dims", kFormat, "5 dimensions, expected 1 to 4",
       [](Document& d) {
         d.tensors[1].ne = {8, 1, 1, 1, 1};
       }},
      {"2^32-1 dims", kFormat, "4294967295 dimensions", [](Document& d) { d.tensors[1].n_dims = UINT32_MAX; }},
      {"dim -1", kFormat, "a dimension of -1, expected at least 1", dims({8, -1})},
      {"dim 0", kFormat, "a dimension of 0, expected at least 1", dims({8, 0})},
      {"dim INT64_MIN", kFormat, "a dimension of -9223372036854775808", dims({INT64_MIN})},
      {"product overflows", kFormat, "number of elements overflow",
       dims({4ll * INT32_MAX, 4ll * INT32_MAX, 4ll * INT32_MAX})},
      {"product of two overflows", kFormat, "number of elements overflow", dims({int64_t{1} << 32, int64_t{1} << 31})},
      {"bytes overflow", kFormat, "shape [9223372036854775807] of F32: the size overflows",
       [](Document& d) {
         d.tensors[1].ne = {kMax};
         d.tensors[1].type = 0;
       }},
      {"type 4 (Q4_2, removed)", kUnsupported, "tensor 'f16': tensor type", type(4)},
      {"type 31 (Q4_0_4_4, removed)", kUnsupported, "(id 31)", type(31)},
      {"type 24 (I8)", kUnsupported, "type I8 (id 24) is not read", type(24)},
      {"type 28 (F64)", kUnsupported, "type F64 (id 28) is not read", type(28)},
      {"type 43", kUnsupported, "(id 43) is not read by this engine, expected one of F32, F16", type(43)},
      {"type -1", kUnsupported, "(id -1)", type(-1)},
      {"type INT32_MAX", kUnsupported, "(id 2147483647)", type(INT32_MAX)},
      {"row not a multiple of 32", kFormat, "a row of 8 elements, expected a multiple of the 32", type(8)},
      {"row not a multiple of 256", kFormat, "of a block of Q6_K", type(14)},
      {"offset -1", kFormat, "data offset 18446744073709551615 not aligned", offset(UINT64_MAX)},
      {"offset misaligned", kFormat, "tensor 'q8_0': data offset 97 not aligned, expected 96", offset(97)},
      {"offset overlaps", kFormat, "data offset 64 overlaps an earlier tensor, expected 96", offset(64)},
      {"offset gapped", kFormat, "data offset 128 leaves a gap, expected 96", offset(128)},
      {"offset 2^63", kFormat, "leaves a gap", offset(kHuge)},
  });
}

// The shapes by which other readers' sizes wrapped to something small.
TEST(historical_wraps) {
  const auto two = [](int64_t n0, int64_t n1) {
    return [=](Document& d) {
      d.tensors[0] = {"first", {n0}, 1, Bytes(), {}, 0, {}};
      d.tensors[1] = {"second", {n1}, 1, Bytes(), {}, {}, {}};
    };
  };
  run({
      // Blocks x block bytes wraps: 2^62 elements of F32.
      {"nbytes wraps", kFormat, "the size overflows",
       [](Document& d) {
         d.tensors[0].ne = {int64_t{1} << 31, int64_t{1} << 31};
       }},
      // Padding 2^64-16 bytes to 32 gives 0.
      {"pad wraps", kFormat, "sum of the tensors' sizes overflows", two(INT64_MAX - 7, 8)},
      // Two padded sizes of 2^63-64 and their like sum past 2^64.
      {"sum wraps", kFormat, "overflow",
       [](Document& d) {
         const int64_t n = 0x7FFFFFFFFFFFFFC0 / 2;
         d.tensors.clear();
         for (int i = 0; i < 3; ++i) {
           d.tensors.push_back({"t" + std::to_string(i), {n}, 1, {}, {}, uint64_t{0x7FFFFFFFFFFFFFC0} * i, {}});
         }
       }},
      // Everything fits 64 bits, the file is small.
      {"exabyte tensor", kFormat, "download incomplete?",
       [](Document& d) {
         d.tensors.resize(1);
         d.tensors[0].ne = {int64_t{1} << 30, int64_t{1} << 30};
       }},
      // Data section start + offset + size wraps: a lone tensor of 2^64-64 bytes.
      {"start + size wraps", kFormat, "more than 2^64",
       [](Document& d) {
         d.tensors.resize(1);
         d.tensors[0] = {"first", {INT64_MAX - 31}, 1, Bytes(), {}, {}, {}};
       }},
  });
}

TEST(data) {
  // One byte less than the last tensor needs, with a last tensor that ends on the alignment.
  Bytes bytes = sample().bytes();
  bytes.pop_back();
  const std::string message = foveal::cat("the file is ", bytes.size(), " bytes, tensor 'last' ends at ",
                                          bytes.size() + 1, ": download incomplete?");
  expect("one byte short", bytes, kFormat, message.c_str());
  // The padding after the last tensor may be missing.
  Document d = sample();
  d.tensors.pop_back();
  d.floats("last", {3});
  bytes = d.bytes();
  bytes.resize(bytes.size() - 20);
  CHECK_EQ(parse(bytes).message, "");
  bytes.pop_back();
  expect("into the last tensor", bytes, kFormat, "tensor 'last' ends at");
}

TEST(foreign_files) {
  const auto text = [](std::string_view s) { return Bytes(s.begin(), s.end()); };
  using namespace std::string_view_literals;
  expect("empty", {}, kFormat, "an empty file");
  expect("two bytes", text("GG"), kFormat, "the file ends after 2 bytes");
  expect("html", text("\r\n<!DOCTYPE html><html>"), kFormat, "an HTML page");
  expect("html upper", text("<HTML lang=en>"), kFormat, "an HTML page");
  expect("lfs", text("version https://git-lfs.github.com/spec/v1\noid sha256:00"), kFormat, "a git-LFS pointer");
  expect("zip", text("PK\x03\x04..............."), kFormat, "a zip archive");
  expect("safetensors", text("\x0C\0\0\0\0\0\0\0{\"a\":[1,2]}  \0\0"sv), kFormat, "a safetensors file");
  expect("ggml", text("lmgg\x01\0\0\0"sv), kFormat, "an old GGML file");
  expect("ggjt", text("tjgg\x03\0\0\0"sv), kFormat, "an old GGJT file");
  expect("pickle", text("\x80\x02}q"), kFormat, "a Python pickle");
  expect("png", text("\x89PNG\r\n\x1A\n"), kFormat, "a PNG picture");
  expect("json", text("{\"error\": 1}"), kFormat, "JSON text");
  expect("not found", text("Entry not found"), kFormat, "'not found' message");
  expect("zeros", Bytes(4096, 0), kFormat, "zero bytes");
  expect("noise", text("\x01\x02zz"), kFormat, "found '\\x01\\x02zz'");
}

TEST(cut_at_every_byte) {
  const Bytes whole = sample().bytes();
  CHECK(whole.size() > 1000 && whole.size() < 4000);
  CHECK_EQ(parse(whole).message, "");
  for (size_t cut = 1; cut < whole.size(); ++cut) {
    const Outcome found = parse(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(cut)));
    // The message names the cut: the file's size.
    const bool named = found.message.find(foveal::cat(" ", cut, " bytes")) != std::string::npos;
    if (found.code != kFormat || !named) {
      check::failed("cut", static_cast<int>(cut), "found '" + found.message + "'");
    }
  }
}

// Counts that don't fit must not cost more than looking at them: 10,000 such files take milliseconds.
TEST(lies_allocate_nothing) {
  Document d;
  d.n_entries = kHuge;
  const Bytes bytes = d.bytes();
  for (int i = 0; i < 10000; ++i) CHECK(parse(bytes).code == kFormat);
}
