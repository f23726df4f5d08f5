// Rows 1 to 19 and 31 of the bad-input matrix: files that are no GGUF, or a damaged one. (tests/gguf holds every case
// of the reader alone.)
#include <sys/stat.h>

#include "tests/badinput/damaged_model.h"

using namespace badinput;
using namespace gguf_writer;
namespace fs = std::filesystem;

namespace {

constexpr ErrorCode kFormat = ErrorCode::file_format, kUnsupported = ErrorCode::unsupported, kIo = ErrorCode::io;
constexpr uint64_t kHuge = uint64_t{1} << 63;

Bytes text(std::string_view s) {
  return Bytes(s.begin(), s.end());
}

Bytes count_only(int32_t type, uint64_t count) {
  Bytes out;
  put(out, type);
  put(out, count);
  return out;
}

}  // namespace

TEST(row_1_not_a_readable_file) {
  const std::string base = folder().path.string();
  expect_refused(1, "missing", base + "/none.gguf", kIo, "No such file or directory");
  expect_refused(1, "directory", base, kIo, "a directory, expected a regular file");
  expect_refused(1, "under a file", folder().write("plain", {1}) + "/none.gguf", kIo, "Not a directory");
  CHECK(::mkfifo((base + "/fifo").c_str(), 0600) == 0);
  expect_refused(1, "FIFO", base + "/fifo", kIo, "a FIFO");
  expect_refused(1, "device", "/dev/null", kIo, "a device");
  expect_refused(1, "empty", folder().write("empty.gguf", {}), kIo, "the file is empty");
  expect_refused(1, "NUL in the path", base + std::string("/a\0b", 4), kIo, "zero byte");
  const std::string secret = folder().write("secret.gguf", good_model().bytes());
  fs::permissions(secret, fs::perms::none);
  if (::geteuid() != 0) expect_refused(1, "no permission", secret, kIo, "Permission denied");
}

TEST(rows_2_and_3_other_files) {
  const std::pair<std::string_view, const char*> files[] = {
      {"<!DOCTYPE html><html><body>Sign in", "an HTML page"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n", "a git-LFS pointer"},
      {{"PK\x03\x04\x14\0\0\0", 8}, "a zip archive"},
      {{"\x10\0\0\0\0\0\0\0{\"a\":{\"d\":[1]}}  ", 26}, "a safetensors file"},
      {{"lmgg\0\0\0\0", 8}, "an old GGML file"},
      {{"tjgg\x03\0\0\0", 8}, "an old GGJT file"},
      {"FUGG", "in reverse byte order"},
      {"hello there", "found 'hello there'"},
  };
  for (const auto& [content, seen] : files) {
    expect_refused(2, seen, folder().write("other.gguf", text(content)), kFormat, seen);
  }
}

TEST(rows_4_to_11_header_and_keys) {
  run({
      {4, "version 0", kUnsupported, "GGUF version 0", [](Document& d) { d.version = 0; }},
      {4, "version 1", kUnsupported, "GGUF version 1", [](Document& d) { d.version = 1; }},
      {4, "version 4", kUnsupported, "a newer engine is needed", [](Document& d) { d.version = 4; }},
      {4, "big-endian", kUnsupported, "big-endian", [](Document& d) { d.version = 0x03000000; }},
      {6, "n_kv 2^63", kFormat, "metadata entries is 9223372036854775808", [](Document& d) { d.n_entries = kHuge; }},
      {6, "n_kv -1", kFormat, "number of metadata entries", [](Document& d) { d.n_entries = UINT64_MAX; }},
      {6, "n_tensors 2^63", kFormat, "number of tensors is", [](Document& d) { d.n_tensors = kHuge; }},
      {6, "n_tensors too many", kFormat, "number of tensors is 99999", [](Document& d) { d.n_tensors = 99999; }},
      {7, "key length 2^63", kFormat, "a metadata key is", [](Document& d) { d.entries[1].key_length = kHuge; }},
      {7, "key length 0", kFormat, "key of 0 bytes", [](Document& d) { d.entries[1].key.clear(); }},
      {7, "key too long", kFormat, "key of 70000 bytes",
       [](Document& d) { d.entries[1].key = std::string(70000, 'x'); }},
      {7, "NUL in a key", kFormat, "without NUL", [](Document& d) { d.entries[1].key = std::string("a\0b", 3); }},
      {7, "invalid UTF-8", kFormat, "not UTF-8", [](Document& d) { d.entries[1].key = "\xFF\xFE"; }},
      {8, "string of 2^40", kFormat, "1099511627776 bytes long",
       [](Document& d) {
         Bytes value;
         put<uint64_t>(value, uint64_t{1} << 40);
         d.raw("general.name", STR, value);
       }},
      {9, "array of 2^63", kFormat, "key 'x': the array has",
       [](Document& d) { d.raw("x", ARR, count_only(U8, kHuge)); }},
      {9, "array of 2^62 x 8", kFormat, "of at least 8 bytes",
       [](Document& d) { d.raw("x", ARR, count_only(F64, kHuge / 2)); }},
      {9, "element type", kFormat, "element type is 77", [](Document& d) { d.raw("x", ARR, count_only(77, 1)); }},
      {10, "nested array", kFormat, "an array of arrays", [](Document& d) { d.raw("x", ARR, count_only(ARR, 1)); }},
      {11, "duplicate key", kFormat, "key 'general.name' occurs twice",
       [](Document& d) { d.entries.push_back(d.entries[1]); }},
      {11, "duplicate tensor", kFormat, "tensor 'output_norm.weight' occurs twice",
       [](Document& d) { d.tensors.push_back(d.tensors.back()); }},
      {11, "equal after NUL", kFormat, "without NUL",
       [](Document& d) {
         d.tensors.push_back(d.tensors.back());
         d.tensors.back().name += std::string("\0x", 2);
       }},
      {12, "value type", kFormat, "value type is 99", [](Document& d) { d.entries[1].type = 99; }},
      {13, "alignment 0", kFormat, "general.alignment", [](Document& d) { d.u32("general.alignment", 0); }},
      {13, "alignment 3", kFormat, "general.alignment", [](Document& d) { d.u32("general.alignment", 3); }},
      {13, "alignment 2^31", kFormat, "general.alignment", [](Document& d) { d.u32("general.alignment", 1u << 31); }},
      {13, "alignment as text", kFormat, "general.alignment", [](Document& d) { d.string("general.alignment", "32"); }},
  });
}

TEST(row_5_cut_files) {
  const Bytes whole = good_model().bytes();
  const size_t step = whole.size() / 60;
  for (size_t cut = 1; cut < whole.size(); cut += step) {
    const Bytes part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(cut));
    expect_refused(5, "cut", folder().write("cut.gguf", part), kFormat, foveal::cat(" ", cut, " bytes"));
  }
}

TEST(row_12_bools_are_normalised) {
  Document d = good_model();
  d.number<uint8_t>("tokenizer.ggml.add_bos_token", BOOL, 7);
  CHECK(load(folder().write("seven.gguf", d.bytes()))->tokenizer()->add_bos());
}

TEST(rows_14_to_18_tensors) {
  const auto first = [](auto change) { return [change](Document& d) { change(d.tensors[0]); }; };
  const auto dims = [&](std::vector<int64_t> ne) { return first([ne](Tensor& t) { t.ne = ne; }); };
  run({
      {14, "n_dims 0", kFormat, "0 dimensions", first([](Tensor& t) { t.n_dims = 0; })},
      {14, "n_dims 5", kFormat, "5 dimensions", first([](Tensor& t) { t.n_dims = 5; })},
      {14, "n_dims 2^32-1", kFormat, "4294967295 dimensions", first([](Tensor& t) { t.n_dims = UINT32_MAX; })},
      {14, "dim 0", kFormat, "a dimension of 0", dims({32, 0})},
      {14, "dim -1", kFormat, "a dimension of -1", dims({-1, 40})},
      {15, "product wraps", kFormat, "overflow", dims({int64_t{1} << 40, int64_t{1} << 40})},
      {15, "nbytes wraps", kFormat, "overflow", dims({int64_t{1} << 62})},
      {15, "pad wraps", kFormat, "overflow", first([](Tensor& t) {
         t.ne = {INT64_MAX - 7};
         t.type = 1;
       })},
      {15, "sum wraps", kFormat, "overflow",
       [](Document& d) {
         for (size_t i = 0; i < 3; ++i) {
           d.tensors[i].ne = {0x7FFFFFFFFFFFFFC0 / 2};
           d.tensors[i].type = 1;
           d.tensors[i].offset = i * 0x7FFFFFFFFFFFFFC0u;
         }
       }},
      {16, "type unknown", kUnsupported, "tensor 'token_embd.weight': tensor type",
       first([](Tensor& t) { t.type = 77; })},
      {16, "type removed", kUnsupported, "(id 5)", first([](Tensor& t) { t.type = 5; })},
      {16, "type of integers", kUnsupported, "I32", first([](Tensor& t) { t.type = 26; })},
      {17, "row of no whole blocks", kFormat, "expected a multiple of the 256", first([](Tensor& t) { t.type = 12; })},
      {18, "misaligned", kFormat, "not aligned", [](Document& d) { d.tensors[1].offset = 5121; }},
      {18, "overlapping", kFormat, "overlaps", [](Document& d) { d.tensors[1].offset = 0; }},
      {18, "gapped", kFormat, "leaves a gap", [](Document& d) { d.tensors[1].offset = 8192; }},
      {18, "past the end", kFormat, "download incomplete?",
       [](Document& d) {
         // A last tensor that ends on the alignment, one float longer than its data.
         d.tensors.back().ne = {33};
       }},
  });
}

TEST(row_19_trailing_bytes) {
  Document d = good_model();
  d.tail = Bytes(100, 7);
  const auto model = load(folder().write("tail.gguf", d.bytes()));
  CHECK(model->info().warnings.size() == 1);
  CHECK(model->info().warnings[0].find("100 bytes after the end of the last tensor") != std::string::npos);
}

TEST(row_31_split_files) {
  const auto part = [](uint16_t no, uint16_t count, const Document& from) {
    Document d = from;
    d.number<uint16_t>("split.no", U16, no).number<uint16_t>("split.count", U16, count);
    return d.bytes();
  };
  Document second;
  second.tensors = {good_model().tensors.back()};
  Document first = good_model();
  first.tensors.pop_back();
  const std::string path = folder().write("m-00001-of-00002.gguf", part(0, 2, first));
  const std::string other = folder().write("m-00002-of-00002.gguf", part(1, 2, second));
  CHECK(load(path)->info().n_layer == 2);
  expect_refused(31, "not the first", other, kFormat, "open " + path + " instead");
  folder().write("m-00002-of-00002.gguf", part(0, 2, second));
  expect_refused(31, "wrong order", path, kFormat, "'split.no' to be 1, found 0");
  folder().write("m-00002-of-00002.gguf", part(1, 3, second));
  expect_refused(31, "wrong count", path, kFormat, "'split.count' to be 2, found 3");
  fs::remove(other);
  expect_refused(31, "missing", path, kIo, "part 2 of 2 of the split model is missing: " + other);
}
