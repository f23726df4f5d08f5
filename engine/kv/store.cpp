// One reservation of addresses for all (layer, KV head): K rows, V rows, token indices, each a region of whole pages
// that grows from its start. Pages cost memory once rows are written; the system gets them back when rows go. One
// mapping for all, because the system limits how many a process may have and sessions are forked. Heads in a backend's
// own memory have their K and V rows in one block there, a whole number of steps long.
#include "engine/kv/store.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>

#include "engine/core/checked.h"
#include "engine/core/error.h"

namespace foveal {
namespace {

// Bytes of one K or V row: 32-element blocks for the quantised types, as ggml lays them out.
size_t row_size(KvType type, int head_dim) {
  const auto d = static_cast<size_t>(head_dim);
  switch (type) {
    case KvType::F32:
      return d * 4;
    case KvType::F16:
      return d * 2;
    case KvType::Q8_0:
      return d / 32 * 34;
    case KvType::Q4_0:
      return d / 32 * 18;
  }
  return 0;
}

size_t page_size() {
  static const auto size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

size_t whole_pages(size_t bytes) {
  return (bytes + page_size() - 1) / page_size() * page_size();
}

// Rows of a block that holds `rows` rows outside of the host's memory.
constexpr int64_t kBlockStep = 64;
int64_t block_rows(int64_t rows) {
  return (rows + kBlockStep - 1) / kBlockStep * kBlockStep;
}

}  // namespace

struct KvStore::Impl {
  Impl(const KvShape& s, std::vector<Backend*> b);
  ~Impl() { munmap(base, reserved); }

  enum Part { keys, values, indices };
  size_t at(int il, int ih) const {
    return static_cast<size_t>(il) * static_cast<size_t>(heads_kv) + static_cast<size_t>(ih);
  }
  size_t part_row(Part part) const { return part == indices ? sizeof(int32_t) : row; }
  char* region(size_t head, Part part) const {
    return base + head * head_stride + static_cast<size_t>(part) * part_stride;
  }
  int32_t* index(size_t head) const { return reinterpret_cast<int32_t*>(region(head, indices)); }
  // Counts exactly the pages of `rows` rows as ours; those beyond go back to the system.
  void commit(size_t head, int64_t rows);
  // Moves the head's rows to a block for `rows` rows where theirs is too small, or larger by more than a step.
  void resize_block(size_t head, int64_t rows);
  Backend& backend_of(size_t head) const { return *backends[head / static_cast<size_t>(heads_kv)]; }
  bool outside(size_t head) const { return backend_of(head).memory() != nullptr; }
  // Rows `slots` of float32 src, rotated and quantised.
  void rotate_into(Backend& backend, KvHead dst, const KvShape& shape, KvHead src, std::span<const int32_t> slots);
  float* rotation_room(Backend& backend, size_t n);  // n floats in its memory
  void count_peak() { peak = std::max(peak, committed + other); }

  std::vector<Backend*> backends;       // [n_layer]
  std::vector<Buffer<uint8_t>> blocks;  // [n_layer * n_head_kv], empty on the host
  std::vector<int64_t> blocks_rows;     // rows that each has room for
  size_t row = 0, part_stride = 0, index_stride = 0, head_stride = 0, reserved = 0;
  int heads_kv = 0;
  int64_t max_rows = 0;
  char* base = nullptr;
  std::vector<KvHead> views;  // [n_layer * n_head_kv]
  std::vector<int64_t> room;  // rows that the committed pages were asked for
  size_t committed = 0, peak = 0, other = 0;
  std::map<Memory*, Buffer<float>> rotations;  // rows on their way into a quantised type
};

float* KvStore::Impl::rotation_room(Backend& backend, size_t n) {
  Buffer<float>& room = rotations[backend.memory()];
  if (room.size() < n) {
    room = {};
    room = Buffer<float>(n, backend.memory());
  }
  return room.data();
}

void KvStore::Impl::rotate_into(Backend& backend, KvHead dst, const KvShape& shape, KvHead src,
                                std::span<const int32_t> slots) {
  const size_t most = backend.memory() ? 4096 : 64;  // rows at a time: few calls, or rows that stay in a cache
  const auto dim = static_cast<size_t>(shape.head_dim);
  float* const k = rotation_room(backend, 2 * most * dim);
  float* const v = k + most * dim;
  std::vector<int32_t> order(std::min(most, slots.size()));
  std::iota(order.begin(), order.end(), 0);
  for (size_t at = 0; at < slots.size(); at += most) {
    const auto part = slots.subspan(at, std::min(most, slots.size() - at));
    const auto n = static_cast<int64_t>(part.size());
    const KvHead room{k, v, n};
    backend.gather_slots(room, KvType::F32, src, KvType::F32, part, shape.head_dim);
    for (float* side : {k, v})
      backend.hadamard(Mat(side, n, shape.head_dim), Mat(side, n, shape.head_dim), shape.head_dim);
    const KvHead to{static_cast<char*>(dst.k) + at * row, static_cast<char*>(dst.v) + at * row, 0};
    backend.gather_slots(to, shape.type, room, KvType::F32, std::span(order).first(part.size()), shape.head_dim);
  }
}

KvStore::Impl::Impl(const KvShape& s, std::vector<Backend*> b)
    : backends(std::move(b)), heads_kv(s.n_head_kv), max_rows(s.max_rows) {
  if (s.n_layer < 1 || s.n_head_kv < 1 || s.head_dim < 1 || s.max_rows < 1 || s.max_rows > int64_t{1} << 40)
    fail(ErrorCode::invalid_argument, "kv store: found ", s.n_layer, " layers, ", s.n_head_kv, " heads of ", s.head_dim,
         ", ", s.max_rows, " rows, expected at least 1 of each");
  const bool blocks = s.type == KvType::Q8_0 || s.type == KvType::Q4_0;
  if (blocks && s.head_dim % 32 != 0)
    fail(ErrorCode::unsupported, "kv dtype q8_0 and q4_0 need a head size that is a multiple of 32, found ",
         s.head_dim);
  row = row_size(s.type, s.head_dim);
  const size_t count = static_cast<size_t>(s.n_layer) * static_cast<size_t>(s.n_head_kv);
  part_stride = whole_pages(static_cast<size_t>(max_rows) * row);
  index_stride = whole_pages(static_cast<size_t>(max_rows) * sizeof(int32_t));
  head_stride = 2 * part_stride + index_stride;
  const auto total = checked_mul(head_stride, count);
  void* p = MAP_FAILED;
  if (total) p = mmap(nullptr, *total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED)
    fail(ErrorCode::out_of_memory, "kv store: can't reserve addresses for ", s.max_rows, " rows of ", count, " heads (",
         total ? *total : 0, " bytes); a smaller n_ctx needs less");
  base = static_cast<char*>(p);
  madvise(p, *total, MADV_NOHUGEPAGE);  // a huge page would hold more memory than is counted
  reserved = *total;
  views.resize(count);
  room.assign(count, 0);
  this->blocks.resize(count);
  blocks_rows.assign(count, 0);
  for (size_t head = 0; head < count; ++head)
    if (!outside(head)) views[head] = {region(head, keys), region(head, values), 0};
}

void KvStore::Impl::resize_block(size_t head, int64_t rows) {
  const int64_t then = block_rows(rows), now = blocks_rows[head];
  if (then <= now && now - then <= kBlockStep && (rows > 0 || now == 0)) return;
  Backend& backend = backend_of(head);
  const auto half = static_cast<size_t>(then) * row;
  KvHead& view = views[head];
  Buffer<uint8_t> block;
  if (then > 0) {
    try {
      block = Buffer<uint8_t>(2 * half, backend.memory());
    } catch (...) {
      if (then > now) throw;
      return;  // giving rows back never fails: the larger block stays
    }
    const auto bytes = static_cast<size_t>(std::min(view.len, then)) * row;
    if (bytes > 0) {
      backend.copy(block.data(), view.k, bytes);
      backend.copy(block.data() + half, view.v, bytes);
    }
  }
  committed += 2 * half;
  count_peak();  // for a moment both blocks are held
  committed -= 2 * static_cast<size_t>(now) * row;
  this->blocks[head] = std::move(block);
  blocks_rows[head] = then;
  view.k = this->blocks[head].data();
  view.v = this->blocks[head].data() + half;
}

void KvStore::Impl::commit(size_t head, int64_t rows) {
  if (rows > max_rows)
    fail(ErrorCode::context_full, "kv store: a head would hold ", rows, " rows, room was reserved for ", max_rows);
  if (outside(head)) resize_block(head, rows);
  for (const Part part : {keys, values, indices}) {
    if (part != indices && outside(head)) continue;
    const size_t now = whole_pages(static_cast<size_t>(room[head]) * part_row(part));
    const size_t then = whole_pages(static_cast<size_t>(rows) * part_row(part));
    if (then < now) madvise(region(head, part) + then, now - then, MADV_DONTNEED);
    committed = committed + then - now;
  }
  room[head] = rows;
  count_peak();
}

KvStore::KvStore(const KvShape& shape, Backend& backend)
    : KvStore(shape, std::vector<Backend*>(static_cast<size_t>(std::max(shape.n_layer, 0)), &backend)) {}
KvStore::KvStore(const KvShape& shape, std::vector<Backend*> backends)
    : shape_(shape), impl_(std::make_unique<Impl>(shape, std::move(backends))) {}
KvStore::~KvStore() = default;

Backend& KvStore::backend(int il) const {
  return *impl_->backends[static_cast<size_t>(il)];
}

std::span<const KvHead> KvStore::heads(int il) const {
  return {impl_->views.data() + impl_->at(il, 0), static_cast<size_t>(shape_.n_head_kv)};
}

int64_t KvStore::len(int il, int ih) const {
  return impl_->views[impl_->at(il, ih)].len;
}

std::span<const int32_t> KvStore::token_index(int il, int ih) const {
  const size_t head = impl_->at(il, ih);
  return {impl_->index(head), static_cast<size_t>(impl_->views[head].len)};
}

void KvStore::reserve(int il, int64_t n) {
  for (int ih = 0; ih < shape_.n_head_kv; ++ih) {
    const size_t head = impl_->at(il, ih);
    const int64_t rows = impl_->views[head].len + n;
    if (rows > impl_->room[head]) impl_->commit(head, rows);
  }
}

void KvStore::append(int il, ConstMat k, ConstMat v, int32_t first_index) {
  for (int ih = 0; ih < shape_.n_head_kv; ++ih)
    if (len(il, ih) + k.rows > impl_->room[impl_->at(il, ih)])
      fail(ErrorCode::state, "kv store: append of ", k.rows, " rows to layer ", il,
           " without room; reserve comes first");
  if (rotated()) {
    const int64_t n = k.rows * k.cols;
    float* const room = impl_->rotation_room(backend(il), static_cast<size_t>(2 * n));
    const Mat turned[2] = {{room, k.rows, k.cols}, {room + n, k.rows, k.cols}};
    backend(il).hadamard(turned[0], k, shape_.head_dim);
    backend(il).hadamard(turned[1], v, shape_.head_dim);
    backend(il).append_kv(heads(il), shape_.type, turned[0], turned[1], shape_.head_dim);
  } else {
    backend(il).append_kv(heads(il), shape_.type, k, v, shape_.head_dim);
  }
  for (int ih = 0; ih < shape_.n_head_kv; ++ih) {
    const size_t head = impl_->at(il, ih);
    int32_t* index = impl_->index(head) + impl_->views[head].len;
    std::iota(index, index + k.rows, first_index);
    impl_->views[head].len += k.rows;
  }
}

void KvStore::assign(int il, int ih, KvHead src, KvType src_type, std::span<const int32_t> slots,
                     std::span<const int32_t> src_index) {
  const size_t head = impl_->at(il, ih);
  const auto rows = static_cast<int64_t>(slots.size());
  if (rows > impl_->room[head]) impl_->commit(head, rows);
  if (rotated() && src_type == KvType::F32) {
    impl_->rotate_into(backend(il), impl_->views[head], shape_, src, slots);
  } else {
    backend(il).gather_slots(impl_->views[head], shape_.type, src, src_type, slots, shape_.head_dim);
  }
  for (size_t j = 0; j < slots.size(); ++j) impl_->index(head)[j] = src_index[static_cast<size_t>(slots[j])];
  impl_->views[head].len = rows;
  impl_->commit(head, rows);
}

void KvStore::compact(int il, int ih, std::span<const int32_t> slots) {
  assign(il, ih, impl_->views[impl_->at(il, ih)], shape_.type, slots, token_index(il, ih));
}

void KvStore::extend(int il, int ih, KvHead src, int32_t first_index) {
  const size_t head = impl_->at(il, ih);
  KvHead& view = impl_->views[head];
  if (view.len + src.len > impl_->room[head])
    fail(ErrorCode::state, "kv store: ", src.len, " rows for layer ", il, " without room; reserve comes first");
  const size_t skip = static_cast<size_t>(view.len) * impl_->row;
  const KvHead end{static_cast<char*>(view.k) + skip, static_cast<char*>(view.v) + skip, 0};
  std::vector<int32_t> slots(static_cast<size_t>(src.len));
  std::iota(slots.begin(), slots.end(), 0);
  if (rotated()) {
    impl_->rotate_into(backend(il), end, shape_, src, slots);
  } else {
    backend(il).gather_slots(end, shape_.type, src, KvType::F32, slots, shape_.head_dim);
  }
  int32_t* index = impl_->index(head) + view.len;
  std::iota(index, index + src.len, first_index);
  view.len += src.len;
}

void KvStore::read(int il, int ih, KvHead dst, std::span<const int32_t> slots) const {
  const KvHead& from = impl_->views[impl_->at(il, ih)];
  backend(il).gather_slots(dst, KvType::F32, from, shape_.type, slots, shape_.head_dim);
  if (!rotated()) return;
  for (void* side : {dst.k, dst.v}) {
    const Mat rows(static_cast<float*>(side), static_cast<int64_t>(slots.size()), shape_.head_dim);
    backend(il).hadamard(rows, rows, shape_.head_dim);
  }
}

void KvStore::read_out(int il, int ih, KvHead host, std::span<const int32_t> slots) const {
  Memory* memory = backend(il).memory();
  if (!memory) return read(il, ih, host, slots);
  const size_t n = slots.size() * static_cast<size_t>(shape_.head_dim);
  Buffer<float> k(n, memory), v(n, memory);
  read(il, ih, {k.data(), v.data(), static_cast<int64_t>(slots.size())}, slots);
  backend(il).copy_out(host.k, k.data(), k.bytes());
  backend(il).copy_out(host.v, v.data(), v.bytes());
}

void KvStore::copy_in(int il, int ih, KvHead src, std::span<const int32_t> src_index) {
  const size_t head = impl_->at(il, ih), bytes = static_cast<size_t>(src.len) * impl_->row;
  KvHead& view = impl_->views[head];
  view.len = 0;
  impl_->commit(head, src.len);
  if (bytes > 0) {
    backend(il).copy_in(view.k, src.k, bytes);
    backend(il).copy_in(view.v, src.v, bytes);
  }
  std::copy(src_index.begin(), src_index.end(), impl_->index(head));
  view.len = src.len;
}

void KvStore::truncate(int32_t first_dropped_index) {
  for (int il = 0; il < shape_.n_layer; ++il)
    for (int ih = 0; ih < shape_.n_head_kv; ++ih) {
      const auto index = token_index(il, ih);
      const auto rows = std::lower_bound(index.begin(), index.end(), first_dropped_index) - index.begin();
      const size_t head = impl_->at(il, ih);
      impl_->views[head].len = rows;
      impl_->commit(head, rows);
    }
}

std::unique_ptr<KvStore> KvStore::clone() const {
  auto copy = std::make_unique<KvStore>(shape_, impl_->backends);
  for (size_t head = 0; head < impl_->views.size(); ++head) {
    const KvHead& from = impl_->views[head];
    KvHead& to = copy->impl_->views[head];
    copy->impl_->commit(head, from.len);
    const auto rows = static_cast<size_t>(from.len);
    if (rows > 0) {
      Backend& backend = impl_->backend_of(head);
      backend.copy(to.k, from.k, rows * impl_->row);
      backend.copy(to.v, from.v, rows * impl_->row);
    }
    std::memcpy(copy->impl_->index(head), impl_->index(head), rows * sizeof(int32_t));
    to.len = from.len;
  }
  return copy;
}

size_t KvStore::bytes() const {
  return impl_->committed;
}
size_t KvStore::peak_bytes() const {
  return impl_->peak;
}

void KvStore::note_other_bytes(size_t bytes) {
  impl_->other = bytes;
  impl_->count_peak();
}

void KvStore::raise_peak(size_t bytes) {
  impl_->peak = std::max(impl_->peak, bytes);
}

size_t KvStore::row_bytes() const {
  return 2 * impl_->row;
}

size_t KvStore::head_bytes(int64_t rows) const {
  const bool any_outside = impl_->backends.front()->memory() || impl_->backends.back()->memory();
  const size_t block = any_outside ? static_cast<size_t>(block_rows(rows) + kBlockStep) * impl_->row : 0;
  return 2 * std::max(block, whole_pages(static_cast<size_t>(rows) * impl_->row)) +
         whole_pages(static_cast<size_t>(rows) * sizeof(int32_t));
}

}  // namespace foveal
