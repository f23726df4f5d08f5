// What parsing allocates is bounded by the bytes that are there: at most eight times as many, plus a constant.
#include <cstdlib>
#include <limits>
#include <new>

#include "engine/gguf/gguf.h"
#include "tests/check.h"
#include "tests/gguf/writer.h"

namespace {
size_t live = 0, peak = 0;
}

// Every block carries its size in front of it.
void* operator new(size_t n) {
  auto* block = static_cast<size_t*>(std::malloc(n + 16));
  if (block == nullptr) throw std::bad_alloc();
  *block = n;
  live += n;
  if (live > peak) peak = live;
  return reinterpret_cast<char*>(block) + 16;
}
void operator delete(void* p) noexcept {
  if (p == nullptr) return;
  auto* block = reinterpret_cast<size_t*>(static_cast<char*>(p) - 16);
  live -= *block;
  std::free(block);
}
void operator delete(void* p, size_t) noexcept {
  operator delete(p);
}

using namespace gguf_writer;
using foveal::Gguf;

namespace {

constexpr size_t kConstant = 4096;  // the object itself, an error's message

// Peak bytes of parsing and, when that succeeds, of `use`.
template <class Use>
size_t peak_of(const Bytes& bytes, Use use) {
  const size_t before = live;
  peak = live;
  try {
    use(*Gguf::parse(bytes, "f.gguf"));
  } catch (const foveal::Error&) {
  }
  CHECK_EQ(live, before);  // nothing stays
  return peak - before;
}

size_t peak_of(const Bytes& bytes) {
  return peak_of(bytes, [](const Gguf&) {});
}

}  // namespace

TEST(small_entries) {
  Document d;
  for (int i = 0; i < 20000; ++i) d.entries.push_back({"k" + std::to_string(i), U8, {1}, {}});
  const Bytes bytes = d.bytes();
  CHECK(bytes.size() < 20000 * 20);
  CHECK(peak_of(bytes) <= 8 * bytes.size() + kConstant);
}

TEST(small_tensors) {
  Document d;
  d.alignment = 1;
  d.number<uint32_t>("general.alignment", U32, 1);
  for (int i = 0; i < 20000; ++i) d.floats("t" + std::to_string(i), {1});
  const Bytes bytes = d.bytes();
  CHECK(peak_of(bytes) <= 8 * bytes.size() + kConstant);
}

TEST(strings) {
  Document d;
  d.strings("tokens", std::vector<std::string>(50000));  // 8 bytes each in the file
  const Bytes bytes = d.bytes();
  CHECK(peak_of(bytes) <= kConstant);  // nothing is copied before somebody asks
  const auto copy = [](const Gguf& f) { f.find_strings("tokens", 0, 1 << 20); };
  CHECK(peak_of(bytes, copy) <= 8 * bytes.size() + kConstant);
  const auto ints = [](const Gguf& f) { f.find_ints("small", 0, 1 << 20, 0, 9); };
  Document e;
  e.array<uint8_t>("small", U8, std::vector<uint8_t>(50000, 1));
  CHECK(peak_of(e.bytes(), ints) <= 8 * e.bytes().size() + kConstant);
}

// Lies about counts and lengths cost nothing at all.
TEST(lies) {
  constexpr uint64_t kHuge = uint64_t{1} << 62;
  Document counts;
  counts.n_entries = kHuge;
  CHECK(peak_of(counts.bytes()) <= kConstant);
  counts.n_entries.reset();
  counts.n_tensors = kHuge;
  CHECK(peak_of(counts.bytes()) <= kConstant);
  for (const int32_t type : {U8, U64, STR}) {
    Document array;
    Bytes value;
    put<int32_t>(value, type);
    put<uint64_t>(value, kHuge >> 3);
    array.raw("a", ARR, value);
    CHECK(peak_of(array.bytes()) <= kConstant);
  }
  Document text;
  Bytes value;
  put<uint64_t>(value, uint64_t{1} << 40);
  text.raw("s", STR, value);
  CHECK(peak_of(text.bytes()) <= kConstant);
}
