// The CPU backend's attention, KV rows and measurements for eviction.
#include <algorithm>
#include <cstring>
#include <exception>

#include "engine/backend/cpu_pieces.h"
#include "engine/core/error.h"

namespace foveal {

static_assert(static_cast<int>(KvType::F32) == static_cast<int>(RowType::F32) &&
              static_cast<int>(KvType::F16) == static_cast<int>(RowType::F16) &&
              static_cast<int>(KvType::Q8_0) == static_cast<int>(RowType::Q8_0) &&
              static_cast<int>(KvType::Q4_0) == static_cast<int>(RowType::Q4_0));

namespace {

// Called before any worker starts: a worker can't throw.
void check_type(KvType type, int64_t head_dim) {
  if ((type == KvType::Q8_0 || type == KvType::Q4_0) && head_dim % 32 != 0) {
    fail(ErrorCode::invalid_argument, "KV type ", type == KvType::Q8_0 ? "q8_0" : "q4_0", " needs a head size that is ",
         "a multiple of 32; found ", head_dim);
  }
}

int64_t row_bytes(KvType type, int64_t head_dim) {
  return row_type_bytes(static_cast<RowType>(type), head_dim);
}

char* at(void* rows, int64_t offset) {
  return static_cast<char*>(rows) + offset;
}
const char* at(const void* rows, int64_t offset) {
  return static_cast<const char*>(rows) + offset;
}

constexpr int64_t measure_rows = 256;  // rows of one piece of a measurement
// Rows of one piece of a head in decode: short heads are cut finer, so that every worker gets a like share.
int64_t chunk_rows(int64_t len) {
  return len <= 1024 ? decode_rows / 2 : decode_rows;
}
int64_t chunk_count(int64_t len) {
  return (len + chunk_rows(len) - 1) / chunk_rows(len);
}

struct Piece {  // of a head, in decode
  int64_t head = 0;
  const void *k = nullptr, *v = nullptr;
  int64_t rows = 0;
};

constexpr int64_t spare_rows = 16384;  // decode this far past a prefill without growing the partial results

}  // namespace

const float* CpuBackend::float_rows(const void* rows, KvType type, int64_t first, int64_t n, int64_t head_dim,
                                    float* room) const {
  const void* from = at(rows, first * row_bytes(type, head_dim));
  if (type == KvType::F32) return static_cast<const float*>(from);
  ops_.load_rows(room, from, static_cast<RowType>(type), n * head_dim);
  return room;
}

float* CpuBackend::reserve_parts(size_t floats) {
  Buffer<float>& parts = (alone_ ? *alone_ : scratch_).parts;
  if (parts.size() < floats) parts = Buffer<float>(floats + floats / 2);
  return parts.data();
}

void CpuBackend::for_each(int64_t n, const std::function<void(int64_t)>& fn) {
  std::lock_guard lock(busy_);
  own_.resize(static_cast<size_t>(pool_.size()));
  std::vector<std::exception_ptr> failed(static_cast<size_t>(std::max<int64_t>(n, 0)));
  std::atomic<int64_t> next{0};
  pool_.run([&](int worker, int) {
    alone_ = &own_[static_cast<size_t>(worker)];
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) {
      try {
        fn(i);
      } catch (...) {
        failed[static_cast<size_t>(i)] = std::current_exception();
      }
    }
    alone_ = nullptr;
  });
  for (const std::exception_ptr& e : failed)
    if (e) std::rethrow_exception(e);
}

void CpuBackend::attend_prefill(Mat out, ConstMat q, std::span<const KvHead> heads, int64_t n_new, const int32_t* lo,
                                const int32_t* hi, int64_t head_dim, const AttendParams& p) {
  std::lock_guard lock(busy_);
  const auto n_kv = static_cast<int64_t>(heads.size());
  const int64_t group = q.cols / head_dim / n_kv;
  const int64_t tokens = ops_.attend_tokens(group), blocks = (n_new + tokens - 1) / tokens;
  // Late blocks see the most keys: they go first, so that the workers finish together.
  for_items(blocks * n_kv, ops_.attend_scratch(group, head_dim), true, [&](int64_t item, float* scratch) {
    const int64_t ih = item % n_kv, first = (blocks - 1 - item / n_kv) * tokens;
    const KvHead& head = heads[static_cast<size_t>(ih)];
    AttendBlock a;
    a.q = q.row(first) + ih * group * head_dim;
    a.out = out.row(first) + ih * group * head_dim;
    a.q_stride = q.stride;
    a.out_stride = out.stride;
    a.n_tokens = std::min(tokens, n_new - first);
    a.group = group;
    a.head_dim = head_dim;
    a.k = static_cast<const float*>(head.k);
    a.v = static_cast<const float*>(head.v);
    a.k_stride = a.v_stride = head_dim;
    a.n_keys = head.len;
    a.lo = lo ? lo + first : nullptr;
    a.hi = hi + first;
    a.past = head.len - n_new;
    a.scale = p.scale;
    a.softcap = p.softcap;
    a.scratch = scratch;
    ops_.attend_block(a);
  });
  int64_t longest = 0;
  for (const KvHead& head : heads) longest = std::max(longest, head.len);
  const int64_t chunks = std::max(chunk_count(1024), chunk_count(longest + spare_rows));
  reserve_parts(static_cast<size_t>(chunks * n_kv * group * part_stride(head_dim)));
}

void CpuBackend::attend_full(Mat out, ConstMat q, ConstMat k, ConstMat v, int n_head, std::span<const int32_t> segments,
                             float scale) {
  std::lock_guard lock(busy_);
  const int64_t head_dim = q.cols / n_head, tokens = ops_.attend_tokens(1);
  const auto segment_blocks = [&](size_t j) { return (segments[j + 1] - segments[j] + tokens - 1) / tokens; };
  int64_t blocks = 0;
  for (size_t j = 0; j + 1 < segments.size(); ++j) blocks += segment_blocks(j);
  for_items(blocks * n_head, ops_.attend_scratch(1, head_dim), true, [&](int64_t item, float* scratch) {
    const int64_t ih = item / blocks;
    int64_t block = item % blocks;
    size_t j = 0;
    for (; block >= segment_blocks(j); ++j) block -= segment_blocks(j);
    const int64_t first = segments[j] + block * tokens;
    AttendBlock a;
    a.q = q.row(first) + ih * head_dim;
    a.out = out.row(first) + ih * head_dim;
    a.q_stride = q.stride;
    a.out_stride = out.stride;
    a.n_tokens = std::min(tokens, segments[j + 1] - first);
    a.head_dim = head_dim;
    a.k = k.row(segments[j]) + ih * head_dim;
    a.v = v.row(segments[j]) + ih * head_dim;
    a.k_stride = k.stride;
    a.v_stride = v.stride;
    a.n_keys = segments[j + 1] - segments[j];
    a.scale = scale;
    a.scratch = scratch;
    ops_.attend_block(a);
  });
}

void CpuBackend::attend_ragged(Mat out, ConstMat q, std::span<const KvHead> heads, KvType type, int64_t head_dim,
                               const AttendParams& p) {
  check_type(type, head_dim);
  std::lock_guard lock(busy_);
  const auto n_kv = static_cast<int64_t>(heads.size());
  const int64_t group = q.cols / head_dim / n_kv, bytes = row_bytes(type, head_dim);
  const int64_t part = group * part_stride(head_dim);
  int64_t chunks = 0, rows = 0;
  for (const KvHead& head : heads) {
    chunks += chunk_count(head.len);
    rows += head.len;
  }
  float* const parts = reserve_parts(static_cast<size_t>(chunks * part));
  const bool parallel = rows * bytes * 2 >= piece_elements * 2;
  const auto piece_of = [&](int64_t item) {
    size_t ih = 0;
    int64_t chunk = item;
    for (int64_t n; chunk >= (n = chunk_count(heads[ih].len)); ++ih) chunk -= n;
    const int64_t size = chunk_rows(heads[ih].len), first = chunk * size;
    return Piece{static_cast<int64_t>(ih), at(heads[ih].k, first * bytes), at(heads[ih].v, first * bytes),
                 std::min(size, heads[ih].len - first)};
  };
  const auto one = [&](int64_t item, bool asked, bool goes_on, float* scratch) {
    const Piece piece = piece_of(item), next = goes_on ? piece_of(item + 1) : Piece{};
    DecodeChunk c;
    c.q = q.row(0) + piece.head * group * head_dim;
    c.k = piece.k;
    c.v = piece.v;
    c.type = static_cast<RowType>(type);
    c.group = group;
    c.head_dim = head_dim;
    c.n_rows = piece.rows;
    c.scale = p.scale;
    c.softcap = p.softcap;
    c.part = parts + item * part;
    c.scratch = scratch;
    c.next_k = next.k;
    c.next_v = next.v;
    c.next_rows = next.rows;
    c.asked = asked;
    ops_.decode_chunk(c);
  };
  for_neighbours(chunks, ops_.decode_scratch(group, head_dim), parallel, one);
  const float* merged = parts;
  for (int64_t ih = 0; ih < n_kv; ++ih) {
    const int64_t n = chunk_count(heads[static_cast<size_t>(ih)].len);
    ops_.decode_merge(out.row(0) + ih * group * head_dim, merged, n, group, head_dim);
    merged += n * part;
  }
}

void CpuBackend::append_kv(std::span<const KvHead> heads, KvType type, ConstMat k, ConstMat v, int64_t head_dim) {
  check_type(type, head_dim);
  const int64_t bytes = row_bytes(type, head_dim);
  for_rows(k.rows, 2 * k.cols, [&](int64_t t) {
    for (size_t ih = 0; ih < heads.size(); ++ih) {
      const int64_t to = (heads[ih].len + t) * bytes, from = static_cast<int64_t>(ih) * head_dim;
      ops_.store_rows(at(heads[ih].k, to), static_cast<RowType>(type), k.row(t) + from, head_dim);
      ops_.store_rows(at(heads[ih].v, to), static_cast<RowType>(type), v.row(t) + from, head_dim);
    }
  });
}

// In place, slot j is written after every slot below it was read: slots ascend, so slots[j] >= j.
void CpuBackend::gather_slots(KvHead dst, KvType dst_type, KvHead src, KvType src_type, std::span<const int32_t> slots,
                              int64_t head_dim) {
  check_type(dst_type, head_dim);
  check_type(src_type, head_dim);
  const int64_t to_bytes = row_bytes(dst_type, head_dim), from_bytes = row_bytes(src_type, head_dim);
  const auto n = static_cast<int64_t>(slots.size());
  if (dst_type == src_type) {
    for (int64_t j = 0; j < n; ++j) {
      const int64_t from = slots[static_cast<size_t>(j)] * from_bytes;
      std::memmove(at(dst.k, j * to_bytes), at(src.k, from), static_cast<size_t>(to_bytes));
      std::memmove(at(dst.v, j * to_bytes), at(src.v, from), static_cast<size_t>(to_bytes));
    }
    return;
  }
  std::lock_guard lock(busy_);
  for_items(1, head_dim, false, [&](int64_t, float* room) {
    for (int64_t j = 0; j < n; ++j) {
      const int64_t slot = slots[static_cast<size_t>(j)];
      const auto to_type = static_cast<RowType>(dst_type);
      ops_.store_rows(at(dst.k, j * to_bytes), to_type, float_rows(src.k, src_type, slot, 1, head_dim, room), head_dim);
      ops_.store_rows(at(dst.v, j * to_bytes), to_type, float_rows(src.v, src_type, slot, 1, head_dim, room), head_dim);
    }
  });
}

void CpuBackend::window_attention(Mat probs, ConstMat q, KvHead head, KvType type, std::span<const int64_t> visible,
                                  float scale, float softcap) {
  check_type(type, q.cols);
  const auto lock = use();
  constexpr int64_t piece = 32;  // rows: scores stand each for itself, and a decoding session has a few hundred
  const int64_t n = head.len, head_dim = q.cols;
  const bool parallel = q.rows * n >= piece_elements / 16;
  for_items((n + piece - 1) / piece, measure_rows * head_dim, parallel, [&](int64_t item, float* room) {
    const int64_t first = item * piece, count = std::min(piece, n - first);
    const float* rows = float_rows(head.k, type, first, count, head_dim, room);
    ops_.score_rows(probs.data + first, probs.stride, q.data, q.stride, q.rows, rows, count, head_dim);
  });
  for_rows(q.rows, n, [&](int64_t i) {
    const int64_t seen = std::min(n, visible[static_cast<size_t>(i) % visible.size()]);
    if (seen > 0) ops_.softmax(probs.row(i), seen, scale, softcap);
    std::fill(probs.row(i) + std::max<int64_t>(0, seen), probs.row(i) + n, 0.0f);
  });
}

void CpuBackend::key_cosine(float* cosine, double* mean_norm2, KvHead head, KvType type, int64_t head_dim) {
  check_type(type, head_dim);
  const auto lock = use();
  const int64_t n = head.len, pieces = (n + measure_rows - 1) / measure_rows;
  const bool parallel = n * head_dim >= piece_elements;
  // [pieces][head_dim], then the mean
  auto* sums = reinterpret_cast<double*>(reserve_parts(static_cast<size_t>((pieces + 1) * head_dim * 2)));
  for_items(pieces, measure_rows * head_dim, parallel, [&](int64_t item, float* room) {
    const int64_t first = item * measure_rows, count = std::min(measure_rows, n - first);
    std::fill_n(sums + item * head_dim, head_dim, 0.0);
    ops_.unit_sum(sums + item * head_dim, float_rows(head.k, type, first, count, head_dim, room), count, head_dim);
  });
  double* mean = sums + pieces * head_dim;
  *mean_norm2 = 0;
  for (int64_t d = 0; d < head_dim; ++d) {
    double sum = 0;
    for (int64_t i = 0; i < pieces; ++i) sum += sums[i * head_dim + d];
    mean[d] = n > 0 ? sum / static_cast<double>(n) : 0.0;
    *mean_norm2 += mean[d] * mean[d];
  }
  for_items(pieces, measure_rows * head_dim, parallel, [&](int64_t item, float* room) {
    const int64_t first = item * measure_rows, count = std::min(measure_rows, n - first);
    ops_.cosine(cosine + first, mean, float_rows(head.k, type, first, count, head_dim, room), count, head_dim);
  });
}

void CpuBackend::row_norm(float* norms, const void* rows, KvType type, int64_t n, int64_t head_dim) {
  check_type(type, head_dim);
  const auto lock = use();
  const bool parallel = n * head_dim >= piece_elements;
  for_items((n + measure_rows - 1) / measure_rows, measure_rows * head_dim, parallel, [&](int64_t item, float* room) {
    const int64_t first = item * measure_rows, count = std::min(measure_rows, n - first);
    ops_.row_norm(norms + first, float_rows(rows, type, first, count, head_dim, room), count, head_dim);
  });
}

}  // namespace foveal
