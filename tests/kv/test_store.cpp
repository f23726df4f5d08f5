// The KV store: what it holds, what it counts, and that memory goes back to the system.
#include "engine/kv/store.h"

#include <sys/mman.h>
#include <unistd.h>

#include <new>
#include <numeric>

#include "engine/core/error.h"
#include "tests/check.h"
#include "tests/kv/fake_backend.h"

using namespace foveal;

static size_t g_allocations = 0;
void* operator new(size_t n) {
  ++g_allocations;
  if (void* p = std::malloc(n ? n : 1)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept {
  std::free(p);
}
void operator delete(void* p, size_t) noexcept {
  std::free(p);
}

namespace {

constexpr int kLayers = 2, kHeads = 3, kDim = 8;
const KvShape kShape{kLayers, kHeads, kDim, 4000, KvType::F32};

// Row t of layer il: every number says where it belongs.
float value_at(int il, int ih, int64_t t, int c, bool is_v) {
  return static_cast<float>(il * 100000 + ih * 10000 + t + (is_v ? 0.5 : 0.0)) + static_cast<float>(c) / 64;
}

void append_rows(KvStore& store, int il, int64_t first, int64_t n) {
  Matrix k(n, kHeads * kDim), v(n, kHeads * kDim);
  for (int64_t t = 0; t < n; ++t)
    for (int ih = 0; ih < kHeads; ++ih)
      for (int c = 0; c < kDim; ++c) {
        k.view().row(t)[ih * kDim + c] = value_at(il, ih, first + t, c, false);
        v.view().row(t)[ih * kDim + c] = value_at(il, ih, first + t, c, true);
      }
  store.reserve(il, n);
  store.append(il, k.view(), v.view(), static_cast<int32_t>(first));
}

// Every row of the head is the one that its token index says.
bool consistent(const KvStore& store, int il, int ih) {
  const KvHead head = store.heads(il)[static_cast<size_t>(ih)];
  const auto index = store.token_index(il, ih);
  if (head.len != static_cast<int64_t>(index.size()) || head.len != store.len(il, ih)) return false;
  for (int64_t i = 0; i < head.len; ++i) {
    const auto at = static_cast<size_t>(i);
    if (i > 0 && index[at] <= index[at - 1]) return false;
    for (int c = 0; c < kDim; ++c) {
      if (static_cast<const float*>(head.k)[i * kDim + c] != value_at(il, ih, index[at], c, false)) return false;
      if (static_cast<const float*>(head.v)[i * kDim + c] != value_at(il, ih, index[at], c, true)) return false;
    }
  }
  return true;
}

size_t counted(const KvStore& store) {
  size_t sum = 0;
  for (int il = 0; il < kLayers; ++il)
    for (int ih = 0; ih < kHeads; ++ih) sum += store.head_bytes(store.len(il, ih));
  return sum;
}

bool all_consistent(const KvStore& store) {
  for (int il = 0; il < kLayers; ++il)
    for (int ih = 0; ih < kHeads; ++ih)
      if (!consistent(store, il, ih)) return false;
  return true;
}

// Pages of [p, p + bytes) that are in memory.
size_t resident_pages(const void* p, size_t bytes) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> in(bytes / page);
  if (mincore(const_cast<void*>(p), bytes / page * page, in.data()) != 0) return static_cast<size_t>(-1);
  return static_cast<size_t>(std::count_if(in.begin(), in.end(), [](unsigned char b) { return (b & 1) != 0; }));
}

}  // namespace

TEST(rows_go_in_and_come_out) {
  FakeBackend backend;
  KvStore store(kShape, backend);
  CHECK_EQ(store.bytes(), size_t{0});
  CHECK_EQ(store.row_bytes(), size_t{64});
  for (int il = 0; il < kLayers; ++il) {
    append_rows(store, il, 0, 700);
    for (int64_t t = 700; t < 750; ++t) append_rows(store, il, t, 1);
  }
  CHECK(all_consistent(store));
  CHECK_EQ(store.len(1, 2), int64_t{750});
  CHECK_EQ(store.bytes(), counted(store));
  CHECK_EQ(store.peak_bytes(), store.bytes());
}

TEST(eviction_gives_memory_back) {
  FakeBackend backend;
  KvStore store(kShape, backend);
  for (int il = 0; il < kLayers; ++il) append_rows(store, il, 0, 3000);
  const size_t full = store.bytes();
  const KvHead before = store.heads(0)[1];
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t region = (3000 * kDim * 4 + page - 1) / page * page;
  CHECK_EQ(resident_pages(before.k, region), region / page);
  std::vector<int32_t> slots;
  for (int32_t i = 3; i < 3000; i += 17) slots.push_back(i);
  store.compact(0, 1, slots);
  CHECK(all_consistent(store));
  CHECK_EQ(store.len(0, 1), static_cast<int64_t>(slots.size()));
  CHECK_EQ(store.token_index(0, 1)[2], 37);
  CHECK_EQ(store.bytes(), counted(store));
  CHECK_EQ(store.bytes(), full - store.head_bytes(3000) + store.head_bytes(static_cast<int64_t>(slots.size())));
  CHECK_EQ(resident_pages(before.k, region), (slots.size() * kDim * 4 + page - 1) / page);
  CHECK_EQ(store.peak_bytes(), full);
  append_rows(store, 0, 3000, 900);  // heads of unequal length grow together
  CHECK(all_consistent(store));
  CHECK_EQ(store.bytes(), counted(store));
}

TEST(assign_takes_rows_of_another_place) {
  FakeBackend backend;
  KvStore store(kShape, backend);
  std::vector<float> k(500 * kDim), v(500 * kDim);
  std::vector<int32_t> index(500), slots{0, 7, 8, 250, 499};
  for (int t = 0; t < 500; ++t) {
    index[static_cast<size_t>(t)] = 1000 + 2 * t;
    for (int c = 0; c < kDim; ++c) {
      k[static_cast<size_t>(t * kDim + c)] = value_at(1, 2, 1000 + 2 * t, c, false);
      v[static_cast<size_t>(t * kDim + c)] = value_at(1, 2, 1000 + 2 * t, c, true);
    }
  }
  store.assign(1, 2, {k.data(), v.data(), 500}, KvType::F32, slots, index);
  CHECK_EQ(store.len(1, 2), int64_t{5});
  CHECK_EQ(store.token_index(1, 2)[3], 1500);
  CHECK(all_consistent(store));
  CHECK_EQ(store.bytes(), store.head_bytes(5));
  store.assign(1, 2, {k.data(), v.data(), 500}, KvType::F32, {}, index);
  CHECK_EQ(store.bytes(), size_t{0});
}

TEST(truncate_drops_by_token_index) {
  FakeBackend backend;
  KvStore store(kShape, backend);
  append_rows(store, 0, 0, 2000);
  append_rows(store, 1, 0, 2000);
  const std::vector<int32_t> slots{1, 5, 900, 1500, 1999};
  store.compact(0, 0, slots);
  store.truncate(1000);
  CHECK_EQ(store.len(0, 0), int64_t{3});
  CHECK_EQ(store.len(0, 1), int64_t{1000});
  CHECK(all_consistent(store));
  CHECK_EQ(store.bytes(), counted(store));
  store.truncate(0);
  CHECK_EQ(store.bytes(), size_t{0});
  append_rows(store, 0, 0, 10);
  CHECK(consistent(store, 0, 0));
}

TEST(clone_is_equal_and_apart) {
  FakeBackend backend;
  KvStore store(kShape, backend);
  append_rows(store, 0, 0, 600);
  append_rows(store, 1, 0, 300);
  const auto copy = store.clone();
  CHECK(all_consistent(*copy));
  CHECK_EQ(copy->bytes(), store.bytes());
  store.truncate(10);
  CHECK_EQ(copy->len(0, 0), int64_t{600});
  CHECK(all_consistent(*copy));
}

TEST(peak_counts_the_layer_being_prefilled) {
  FakeBackend backend;
  KvStore store(kShape, backend);
  append_rows(store, 0, 0, 100);
  store.note_other_bytes(1 << 20);
  store.note_other_bytes(0);
  CHECK_EQ(store.peak_bytes(), store.bytes() + (1 << 20));
  append_rows(store, 0, 100, 100);
  CHECK_EQ(store.peak_bytes(), store.head_bytes(100) * 3 + (1 << 20));
}

TEST(a_decode_append_allocates_nothing) {
  FakeBackend backend;
  KvStore store(kShape, backend);
  const Matrix k(1, kHeads * kDim), v(1, kHeads * kDim);
  const size_t before = g_allocations;
  for (int32_t t = 0; t < 2000; ++t) {
    store.reserve(0, 1);
    store.append(0, k.view(), v.view(), t);
  }
  CHECK_EQ(g_allocations, before);
}

TEST(limits_are_errors) {
  FakeBackend backend;
  KvStore store(kShape, backend);
  append_rows(store, 0, 0, 4000);
  CHECK_THROWS(Error, "a head would hold 4001 rows, room was reserved for 4000", store.reserve(0, 1));
  CHECK(consistent(store, 0, 0));
  const Matrix k(1, kHeads * kDim);
  CHECK_THROWS(Error, "without room", store.append(0, k.view(), k.view(), 4000));
  CHECK_THROWS(Error, "can't reserve addresses", KvStore({100, 100, 4096, int64_t{1} << 40, KvType::F32}, backend));
  CHECK_THROWS(Error, "expected at least 1", KvStore({0, 1, 8, 10, KvType::F32}, backend));
  CHECK_THROWS(Error, "multiple of 32, found 80", KvStore({1, 1, 80, 10, KvType::Q8_0}, backend));
  CHECK_EQ(KvStore({1, 1, 64, 10, KvType::Q8_0}, backend).row_bytes(), size_t{2 * 68});
  CHECK_EQ(KvStore({1, 1, 64, 10, KvType::Q4_0}, backend).row_bytes(), size_t{2 * 36});
  CHECK_EQ(KvStore({1, 1, 64, 10, KvType::F16}, backend).row_bytes(), size_t{2 * 128});
}
