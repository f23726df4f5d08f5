// What a good file gives back: every value type through the typed accessors, their ranges, tensors and warnings.
#include <cmath>
#include <limits>

#include "engine/gguf/gguf.h"
#include "tests/check.h"
#include "tests/gguf/writer.h"

using namespace gguf_writer;
using foveal::Error;
using foveal::Gguf;

namespace {

constexpr int64_t kMin = std::numeric_limits<int64_t>::min(), kMax = std::numeric_limits<int64_t>::max();

// Bytes and the object that looks into them.
struct Opened {
  Bytes bytes;
  std::shared_ptr<const Gguf> file;
  explicit Opened(const Document& d) : bytes(d.bytes()), file(Gguf::parse(bytes, "f.gguf")) {}
  const Gguf* operator->() const { return file.get(); }
};

}  // namespace

TEST(numbers) {
  const Opened f(sample());
  CHECK_EQ(f->version(), 3u);
  CHECK_EQ(f->get_int("t.u8", 0, 255), 200);
  CHECK_EQ(f->get_int("t.i8", -128, 0), -100);
  CHECK_EQ(f->get_int("t.u16", 0, kMax), 60000);
  CHECK_EQ(f->get_int("t.i16", kMin, 0), -30000);
  CHECK_EQ(f->get_int("t.u32", 0, kMax), 4000000000);
  CHECK_EQ(f->get_int("t.i32", kMin, kMax), -2000000000);
  CHECK_EQ(f->get_int("t.i64", kMin, kMax), kMin);
  CHECK_EQ(f->get_float("t.f32", 0, 2), 1.5);
  CHECK_EQ(f->get_float("t.f64", -3, 0), -2.25);
  CHECK_EQ(f->get_float("t.u8", 0, 255), 200.0);
  CHECK(!f->find_int("none", 0, 1));
  CHECK(!f->find_float("none", 0, 1));
  CHECK_EQ(f->find_bool("t.true").value(), true);
  CHECK_EQ(f->find_bool("t.false").value(), false);
  CHECK(f->has("t.u8") && !f->has("t.u") && !f->has(""));
}

TEST(number_errors) {
  Document d = sample();
  d.f32("nan", NAN).f32("inf", INFINITY).number<double>("-inf", F64, -INFINITY);
  const Opened f(d);
  CHECK_THROWS(Error, "key 't.u8': expected an integer from 1 to 199, found u8 200", f->get_int("t.u8", 1, 199));
  CHECK_THROWS(Error, "f.gguf: at offset 0x", f->get_int("t.u8", 201, 255));
  CHECK_THROWS(Error, "found u64 18446744073709551615", f->get_int("t.u64", kMin, kMax));
  CHECK_THROWS(Error, "found f32 1.5", f->get_int("t.f32", 0, 9));
  CHECK_THROWS(Error, "found bool true", f->get_int("t.true", 0, 9));
  CHECK_THROWS(Error, "found str 'sample'", f->find_int("general.architecture", 0, 9));
  CHECK_THROWS(Error, "found arr of 3 i32", f->get_int("a.i32", 0, 9));
  CHECK_THROWS(Error, "key 'none' is missing, expected an integer from 0 to 9", f->get_int("none", 0, 9));
  CHECK_THROWS(Error, "expected a finite number from 0 to 1, found f32 1.5", f->get_float("t.f32", 0, 1));
  CHECK_THROWS(Error, "found f32 nan", f->get_float("nan", -1, 1));
  CHECK_THROWS(Error, "found f32 inf", f->get_float("inf", 0, INFINITY));
  CHECK_THROWS(Error, "found f64 -inf", f->get_float("-inf", -INFINITY, 0));
  CHECK_THROWS(Error, "found bool true", f->get_float("t.true", 0, 1));
  CHECK_THROWS(Error, "found str ''", f->get_float("t.empty", 0, 1));
  CHECK_THROWS(Error, "expected a bool, found u8 200", f->find_bool("t.u8"));
  CHECK_THROWS(Error, "key 'none' is missing", f->get_float("none", 0, 1));
}

TEST(bool_is_normalised) {
  Document d = sample();
  d.number<uint8_t>("seven", BOOL, 7).array<uint8_t>("many", BOOL, {0, 7, 255});
  const Opened f(d);
  CHECK_EQ(f->find_bool("seven").value(), true);
  const std::vector<bool> expected{false, true, true};
  CHECK_EQ(f->find_bools("many", 0, 9).value(), expected);
}

TEST(strings_and_arrays) {
  const Opened f(sample());
  CHECK_EQ(f->get_string("general.architecture"), "sample");
  CHECK_EQ(*f->find_string("t.empty"), "");
  CHECK(f->find_string("none") == nullptr);
  CHECK_EQ(f->find_string("t.empty"), f->find_string("t.empty"));
  const std::vector<std::string> expected{"one", "", "drei\n"};
  CHECK_EQ(*f->find_strings("a.str", 3, 3), expected);
  const auto views = f->find_string_views("a.str", 0, 9).value();
  CHECK(views.size() == 3 && views[2] == "drei\n");
  CHECK(reinterpret_cast<const uint8_t*>(views[0].data()) > f.bytes.data());  // not a copy
  CHECK(reinterpret_cast<const uint8_t*>(views[0].data()) < f.bytes.data() + f.bytes.size());
  const std::vector<int64_t> ints{1, -2, 3};
  CHECK_EQ(f->find_ints("a.i32", 1, 3, -2, 3).value(), ints);
  const std::vector<float> floats{0.5f, -1.0f}, seven{7.0f};
  CHECK_EQ(f->find_floats("a.f32", 2, 2).value(), floats);
  CHECK_EQ(f->find_floats("a.u64", 1, 1).value(), seven);
  CHECK(f->find_ints("a.none", 0, 0, 0, 0).value().empty());
  CHECK(!f->find_ints("none", 0, 1, 0, 1) && !f->find_floats("none", 0, 1) && !f->find_bools("none", 0, 1));
  CHECK(!f->find_strings("none", 0, 1) && !f->find_string_views("none", 0, 1));
  CHECK(f->is_array("a.i32") && !f->is_array("t.u8") && !f->is_array("none"));
}

TEST(array_errors) {
  Document d = sample();
  d.array<float>("a.nan", F32, {0, NAN}).array<double>("a.wide", F64, {1e300});
  const Opened f(d);
  CHECK_THROWS(Error, "expected a string, found arr of 3 str", f->get_string("a.str"));
  CHECK_THROWS(Error, "expected a string, found u8 200", f->find_string("t.u8"));
  CHECK_THROWS(Error, "key 'none' is missing, expected a string", f->get_string("none"));
  CHECK_THROWS(Error, "expected an array of 4 to 9 str, found arr of 3 str", f->find_strings("a.str", 4, 9));
  CHECK_THROWS(Error, "expected an array of 2 str, found arr of 3 str", f->find_string_views("a.str", 2, 2));
  CHECK_THROWS(Error, "expected an array of str, found arr of 3 i32", f->find_strings("a.i32", 0, 9));
  CHECK_THROWS(Error, "expected an array of 0 to 9 integers, found u8 200", f->find_ints("t.u8", 0, 9, 0, 9));
  CHECK_THROWS(Error, "expected an array of integers, found arr of 2 f32", f->find_ints("a.f32", 0, 9, 0, 9));
  CHECK_THROWS(Error, "expected an integer from 0 to 9, found i32 -2 at index 1", f->find_ints("a.i32", 0, 9, 0, 9));
  CHECK_THROWS(Error, "found f32 nan at index 1", f->find_floats("a.nan", 0, 9));
  CHECK_THROWS(Error, "found f64 1e+300 at index 0", f->find_floats("a.wide", 0, 9));
  CHECK_THROWS(Error, "expected an array of numbers, found arr of 3 bool", f->find_floats("a.bool", 0, 9));
  CHECK_THROWS(Error, "expected an array of bool, found arr of 3 i32", f->find_bools("a.i32", 0, 9));
}

TEST(tensors) {
  const Opened f(sample());
  CHECK_EQ(f->tensors().size(), 5u);
  const auto& q = f->tensor("q4_k");
  CHECK_EQ(q.bytes, 288u);
  CHECK_EQ(q.cols(), 256);
  CHECK_EQ(q.rows(), 2);
  CHECK_EQ(q.shape(), "[256, 1, 2]");
  CHECK(q.type == foveal::TensorType::Q4_K);
  for (uint64_t i = 0; i < q.bytes; ++i) CHECK_EQ(q.data[i], 0x33);
  CHECK_EQ(f->tensor("q8_0").data[0], 0x22);
  CHECK_EQ(&f->tensor("last", {8}), f->find_tensor("last"));  // trailing 1s say nothing
  CHECK_EQ(&f->tensor("f32", {3, 5, 1}), f->find_tensor("f32"));
  CHECK(f->find_tensor("none") == nullptr);
  CHECK_THROWS(Error, "f.gguf: tensor 'f32': expected shape [5, 3], found [3, 5]", f->tensor("f32", {5, 3}));
  CHECK_THROWS(Error, "expected shape [3], found [3, 5]", f->tensor("f32", {3}));
  CHECK_THROWS(Error, "tensor 'none' of shape [2, 3] is missing", f->tensor("none", {2, 3}));
  CHECK_THROWS(Error, "tensor 'none' is missing", f->tensor("none"));
}

TEST(small_files_and_warnings) {
  const Opened empty{Document{}};
  CHECK(empty->tensors().empty() && empty->warnings().empty());
  CHECK_EQ(empty->file_bytes(), 24u);
  Document old = sample();
  old.version = 2;
  CHECK_EQ(Opened(old)->version(), 2u);
  CHECK(Opened(sample())->warnings().empty());
  Document d = sample();
  d.tail = {1, 2, 3};
  const Opened f(d);
  CHECK_EQ(f->warnings().size(), 1u);
  CHECK(f->warnings()[0].find("3 bytes after the end") != std::string::npos);
}

TEST(names_beyond_ascii) {
  const std::string name = "\xC3\xA9.\xE4\xBD\xA0.\xF0\x9F\xA6\x8A.\xEF\xBF\xBD.\xF4\x8F\xBF\xBF";  // two to four bytes
  Document d = sample();
  d.u32(name, 7).floats(name, {4}).floats(std::string(63, 'n'), {4});  // 63: the longest tensor name
  const Opened f(d);
  CHECK_EQ(f->path(), "f.gguf");
  CHECK_EQ(f->get_int(name, 7, 7), 7);
  CHECK_EQ(f->tensor(name).bytes, 16u);
  CHECK_EQ(f->tensor(std::string(63, 'n'), {4}).cols(), 4);
}

TEST(listing) {
  Document d = sample();
  d.array<int32_t>("a.long", I32, {1, 2, 3, 4, 5, 6, 7, 8});
  const auto list = Opened(d)->describe_metadata();
  CHECK_EQ(list.size(), d.entries.size());
  for (size_t i = 0; i < list.size(); ++i) CHECK_EQ(list[i].first, d.entries[i].key);
  const auto value = [&](std::string_view key) {
    for (const auto& [k, v] : list) {
      if (k == key) return v;
    }
    return std::string("missing");
  };
  CHECK_EQ(value("general.architecture"), "'sample'");
  CHECK_EQ(value("t.u64"), "18446744073709551615");
  CHECK_EQ(value("t.true"), "true");
  CHECK_EQ(value("a.str"), "['one', '', 'drei\\x0a']");
  CHECK_EQ(value("a.f32"), "[0.5, -1]");
  CHECK_EQ(value("a.long"), "[1, 2, 3, 4, 5, 6, ... 8 i32]");
  CHECK_EQ(value("a.none"), "[]");
}

// Every fixture of this repository opens without a warning.
TEST(real_files) {
  for (const char* name : {"qwen2vl/model-f16", "qwen2vl/model-q8_0", "qwen2vl/model-q4_k", "qwen2vl/mmproj-f16",
                           "gemma3/model-q4_k", "quants/tensors", "text_llama/model-q4_k"}) {
    const auto file = Gguf::open(foveal::cat(FOVEAL_TEST_DATA, "/", name, ".gguf"));
    CHECK(file->warnings().empty());
    CHECK(!file->tensors().empty());
  }
}
