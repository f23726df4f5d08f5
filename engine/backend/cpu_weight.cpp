// Matrix products over packed weights: how they are cut into pieces and handed to the kernels.
#include "engine/backend/cpu_weight.h"

#include <algorithm>
#include <atomic>

#include "engine/backend/cpu_activations.h"

namespace foveal {

namespace {

// What an item does to quantised panels: nothing, they are there | packs them | packs them for this product alone.
enum class Packing { done, keep, pass };

struct Job {
  const MatmulKernels& kernels;
  const AmxKernels* amx;
  bool tiles;  // integer products by tiles
  Mat out;
  int64_t cols;
  const float* bias;
  MatmulScratch& scratch;
  bool split;
  Packing packing;
  int64_t workers;
};

QuantPanel panel_of(const CpuWeight::Segment& s, int64_t panel, int64_t cols) {
  const uint8_t* base = s.data.data() + panel * s.layout.bytes;
  return {reinterpret_cast<const float*>(base),
          base + s.layout.code_offset,
          reinterpret_cast<const uint16_t*>(base + s.layout.d_offset),
          s.layout.affine.mins ? reinterpret_cast<const uint16_t*>(base + s.layout.m_offset) : nullptr,
          s.layout.affine.table,
          s.layout.affine.offset,
          cols,
          s.layout.form};
}

struct Room {  // one worker's
  uint8_t* codes = nullptr;
  float *sums = nullptr, *values = nullptr;
  int64_t worker = 0;
  int64_t shift = 0;  // from a panel to where it lies packed
};

// A float panel from input k0 on.
const uint8_t* float_panel(const CpuWeight::Segment& s, int64_t panel, int64_t k0, const Room& room) {
  return s.data.data() + (panel + room.shift) * s.layout.bytes + k0 * kPanelRows * (s.floats == kF32 ? 4 : 2);
}

// Where the results of token t and the given panels go.
MatmulOut out_of(const Job& job, const CpuWeight::Segment& s, int64_t panel, int64_t n_panels, int64_t t) {
  const int64_t in_segment = panel * kPanelRows, row = s.first_row + in_segment;
  return {job.out.row(t) + row, job.out.stride,
          static_cast<int>(std::min(n_panels * kPanelRows, s.n_rows - in_segment)),
          job.bias ? job.bias + row : nullptr};
}

void run_few_floats(const Job& job, const CpuWeight::Segment& s, int64_t panel, int64_t t0, int64_t t1,
                    const Room& room) {
  const uint8_t* w = float_panel(s, panel, 0, room);
  for (int64_t t = t0; t < t1;) {
    const int count = next_float_block(t1 - t);
    const int used = static_cast<int>(std::min<int64_t>(count, t1 - t));
    job.kernels.few_floats[s.floats](w, {job.scratch.packed.data() + t * job.cols, count, used, job.cols},
                                     out_of(job, s, panel, 1, t));
    t += count;
  }
}

constexpr int64_t kRange = 192;  // inputs at a time: two float32 panels and a block of tokens in the first-level cache

// Panels [panel, panel + n), n = 1 or 2, times the inputs [k0, k0 + n_k); 16-bit types are widened once.
// sums: [tokens][n][16].
void run_range(const Job& job, const CpuWeight::Segment& s, int64_t panel, int n, int64_t k0, int64_t n_k, int64_t t0,
               int64_t t1, const Room& room, float* sums) {
  const float* w[2];
  for (int i = 0; i < n; ++i) {
    const uint8_t* from = float_panel(s, panel + i, k0, room);
    float* wide = room.values + i * kRange * kPanelRows;
    if (s.floats != kF32) job.kernels.widen[s.floats](from, n_k * kPanelRows, wide);
    w[i] = s.floats == kF32 ? reinterpret_cast<const float*>(from) : wide;
  }
  for (int64_t t = t0; t < t1;) {
    const int count = next_float_block(t1 - t), used = static_cast<int>(std::min<int64_t>(count, t1 - t));
    const FloatTokens x{job.scratch.packed.data() + t * job.cols + k0 * count, count, used, n_k};
    const RangeSums range{sums + (t - t0) * n * kPanelRows, k0 == 0, k0 + n_k == job.cols};
    job.kernels.many_floats(w, n, x, range, out_of(job, s, panel, n, t));
    t += count;
  }
}

constexpr int64_t kFloatPanels = 8, kFloatTokens = 600;  // of an item, at most: its sums in the second-level cache
constexpr int64_t kQuantTokens = 256;

// A range of inputs after the other: its activations stay in the second-level cache for all panels.
void run_many_floats(const Job& job, const CpuWeight::Segment& s, int64_t p0, int64_t p1, int64_t t0, int64_t t1,
                     Room room) {
  const int64_t tokens = (t1 - t0 + 11) / 12 * 12;
  for (int64_t k0 = 0; k0 < job.cols; k0 += kRange) {
    const int64_t n_k = std::min(kRange, job.cols - k0);
    for (int64_t p = p0; p < p1; p += 2)
      run_range(job, s, p, p1 - p >= 2 ? 2 : 1, k0, n_k, t0, t1, room, room.sums + (p - p0) * tokens * kPanelRows);
  }
}

constexpr int64_t kBf16Range = 384;  // inputs at a time: two panels in the first-level cache

// Which part of the weights times which part of the activations, 0 high, 1 low.
struct Term {
  int weight, input;
};
constexpr Term kTerms[3] = {{0, 0}, {1, 0}, {0, 1}};

// One or two panels times tokens [t0, t1), inputs [k0, k0 + n_k), as many as tiles hold: of those past the last one
// the parts are zeros.
void run_pair_range(const Job& job, const CpuWeight::Segment& s, int64_t panel, int n, int64_t k0, int64_t n_k,
                    int64_t t0, int64_t t1, const Room& room, float* sums) {
  const int64_t cols = bf16_cols(job.cols), stride = kTileTokens * cols;
  const int64_t low_inputs = (job.out.rows + kTileTokens - 1) / kTileTokens * stride;
  constexpr int64_t kPart = kBf16Range / 2 * kPanelRows;
  uint32_t* parts[2][2];  // [high, low][panel]
  for (int j = 0; j < n; ++j) {
    for (int low = 0; low < 2; ++low) parts[low][j] = reinterpret_cast<uint32_t*>(room.values) + (2 * j + low) * kPart;
    (job.amx ? job.amx->pairs : scalar::pairs)(s.floats, float_panel(s, panel + j, k0, room),
                                               std::min(n_k, job.cols - k0), parts[0][j],
                                               job.split ? parts[1][j] : nullptr);
  }
  const auto product = job.amx ? job.amx->product_bf16 : scalar::product_bf16;
  const int terms = job.split ? 3 : 1;
  for (int i = 0; i < terms; ++i) {
    const uint32_t* const* w = parts[kTerms[i].weight];
    const uint16_t* inputs = job.scratch.pairs.data() + kTerms[i].input * low_inputs + k0 * kTileTokens;
    for (int64_t t = t0; t < t1; t += 2 * kTileTokens) {
      const auto used = static_cast<int>(std::min(2 * kTileTokens, t1 - t));
      const Bf16Tokens x{inputs + t * cols, stride, n_k / kTileInputs, used > kTileTokens ? 2 : 1, used};
      const RangeSums range{sums + (t - t0) * n * kPanelRows, k0 == 0 && i == 0, k0 + n_k == cols && i + 1 == terms};
      product(w, n, x, range, out_of(job, s, panel, n, t));
    }
  }
}

// The same in bfloat16, two blocks of tokens at a time.
void run_pairs(const Job& job, const CpuWeight::Segment& s, int64_t p0, int64_t p1, int64_t t0, int64_t t1,
               const Room& room) {
  const int64_t cols = bf16_cols(job.cols);
  const int64_t tokens = (t1 - t0 + 2 * kTileTokens - 1) / (2 * kTileTokens) * (2 * kTileTokens);
  if (job.amx) job.amx->shape(TileShape::bf16);
  for (int64_t k0 = 0; k0 < cols; k0 += kBf16Range)
    for (int64_t p = p0; p < p1; p += 2)
      run_pair_range(job, s, p, p1 - p >= 2 ? 2 : 1, k0, std::min(kBf16Range, cols - k0), t0, t1, room,
                     room.sums + (p - p0) * tokens * kPanelRows);
  if (job.amx) job.amx->release();
}

void run_few(const Job& job, const CpuWeight::Segment& s, int64_t panel, int64_t t0, int64_t t1, const Room& room) {
  const QuantPanel w = panel_of(s, panel + room.shift, job.cols);
  for (int64_t t = t0; t < t1;) {
    const int count = next_quant_block(t1 - t);
    job.kernels.few[s.layout.form][s.layout.affine.sub == 16](w, block_of(job.scratch, t, count, t1 - t, job.cols),
                                                              out_of(job, s, panel, 1, t));
    t += count;
  }
}

constexpr int64_t kQuantRange = 512;  // inputs at a time: two panels' codes as bytes in the first-level cache

// A panel's inputs from k0 on, n_k of them.
QuantPanel part_of(const QuantPanel& w, int64_t sub, int64_t k0, int64_t n_k) {
  QuantPanel part = w;
  part.codes += k0 / 32 * code_bytes(w.form);
  part.d += k0 / sub * kPanelRows;
  if (part.m) part.m += k0 / sub * kPanelRows;
  part.cols = n_k;
  return part;
}

// Panels [panel, panel + n), n = 1 or 2, a range of inputs after the other: codes become bytes once for all tokens.
void run_many(const Job& job, const CpuWeight::Segment& s, int64_t panel, int n, int64_t t0, int64_t t1, Room room) {
  const int64_t sub = s.layout.affine.sub;
  for (int64_t k0 = 0; k0 < job.cols; k0 += kQuantRange) {
    const int64_t n_k = std::min(kQuantRange, job.cols - k0);
    QuantPanel w[2];
    for (int i = 0; i < n; ++i) {
      w[i] = part_of(panel_of(s, panel + i + room.shift, job.cols), sub, k0, n_k);
      if (s.layout.form == kBytes) continue;
      uint8_t* bytes = room.codes + i * kQuantRange * kPanelRows;
      job.kernels.expand[s.layout.form](w[i], bytes);
      w[i].codes = bytes;
    }
    for (int64_t t = t0; t < t1;) {
      const int count = next_quant_block(t1 - t);
      const RangeSums sums{room.sums + (t - t0) * n * kPanelRows, k0 == 0, k0 + n_k == job.cols};
      job.kernels.many[sub == 16](w, n, block_of(job.scratch, t, count, t1 - t, job.cols, k0), sums,
                                  out_of(job, s, panel, n, t));
      t += count;
    }
  }
}

// Panels [p0, p1) by tiles, one panel and 16 tokens at a time.
void run_tiles(const Job& job, const CpuWeight::Segment& s, int64_t p0, int64_t p1, int64_t t0, int64_t t1, Room room) {
  const int64_t sub = s.layout.affine.sub;
  job.amx->shape(sub == 16 ? TileShape::integer16 : TileShape::integer32);
  for (int64_t panel = p0; panel < p1; ++panel)
    for (int64_t k0 = 0; k0 < job.cols; k0 += kQuantRange) {
      const int64_t n_k = std::min(kQuantRange, job.cols - k0);
      QuantPanel w = part_of(panel_of(s, panel + room.shift, job.cols), sub, k0, n_k);
      job.kernels.expand[s.layout.form](w, room.codes);
      if (w.offset != 0) job.amx->recentre(room.codes, n_k * kPanelRows, w.offset);
      w.codes = room.codes;
      for (int64_t t = t0; t < t1; t += kTileTokens) {
        const RangeSums sums{room.sums + (t - t0) * kPanelRows, k0 == 0, k0 + n_k == job.cols};
        job.amx->product[sub == 16](w, tiles_of(job.scratch, t, t1 - t, job.cols, k0), sums,
                                    out_of(job, s, panel, 1, t));
      }
    }
  job.amx->release();
}

constexpr int64_t kMany = 16;  // tokens from which expanding codes pays

// Panels [p0, p1) of a segment, packed, times the tokens [t0, t1).
void run_packed(const Job& job, const CpuWeight::Segment& s, int64_t p0, int64_t p1, int64_t t0, int64_t t1,
                const Room& room) {
  const bool floating = s.layout.affine.bits == 0;
  if (s.pairs) {
    run_pairs(job, s, p0, p1, t0, t1, room);
  } else if (!floating && job.tiles) {
    run_tiles(job, s, p0, p1, t0, t1, room);
  } else if (t1 - t0 < kMany) {
    for (int64_t p = p0; p < p1; ++p)
      floating ? run_few_floats(job, s, p, t0, t1, room) : run_few(job, s, p, t0, t1, room);
  } else if (floating) {
    run_many_floats(job, s, p0, p1, t0, t1, room);
  } else {
    for (int64_t p = p0; p < p1; p += 2) run_many(job, s, p, p1 - p >= 2 ? 2 : 1, t0, t1, room);
  }
}

// Panels that a worker packs at a time.
int64_t packed_at_once(const CpuWeight::Segment& s, int64_t n_tokens) {
  return s.pairs || (s.layout.affine.bits == 0 && n_tokens >= kMany) ? kFloatPanels : 2;
}

// Whether there is room for passing panels: they lie in the place of the first ones, so many for each worker.
bool has_passing_room(const CpuWeight::Segment& s, int64_t n_tokens, int64_t workers) {
  return panels_of(s.n_rows) >= packed_at_once(s, n_tokens) * workers;
}

// The same while they are still in the file. In a small segment passing panels lie in their own place.
void run_from_file(const Job& job, const CpuWeight::Segment& s, int64_t p0, int64_t p1, int64_t t0, int64_t t1,
                   const Room& from) {
  const bool passing = job.packing == Packing::pass && has_passing_room(s, job.out.rows, job.workers);
  const int64_t step = packed_at_once(s, job.out.rows);
  Room room = from;
  for (int64_t p = p0; p < p1; p += step) {
    room.shift = passing ? step * room.worker - p : 0;
    const int64_t end = std::min(p1, p + step);
    for (int64_t i = p; i < end; ++i) pack_one(s, i, i + room.shift);
    run_packed(job, s, p, end, t0, t1, room);
  }
}

// How a product is cut into items: panels times tokens (as many as the second-level cache holds well, in even shares;
// a multiple of the block sizes), neighbours sharing their tokens. Few tokens stream the weights: then longer runs of
// panels. Several items for each worker.
struct Cut {
  int64_t panels, tokens;
};
Cut cut_of(const CpuWeight& w, int64_t n_tokens, int64_t workers) {
  const int64_t panels = panels_of(w.rows);
  if (n_tokens < kMany && !w.paired) return {std::max<int64_t>(4, panels / (8 * workers)), kMany};
  const int64_t quant = w.cols > 2048 ? 104 : kQuantTokens;
  const int64_t unit = w.paired ? 32 : w.quantised ? (w.floating ? 48 : 16) : 12;
  const int64_t most = w.quantised ? quant : kFloatTokens;
  const int64_t shares = (n_tokens + most - 1) / most;
  Cut cut{w.quantised ? 4 : kFloatPanels, ((n_tokens + shares - 1) / shares + unit - 1) / unit * unit};
  while (cut.panels > 2 && panels / cut.panels * ((n_tokens + cut.tokens - 1) / cut.tokens) < 8 * workers)
    cut.panels /= 2;
  return cut;
}

// What this product does to the panels: see the head of cpu_weight.h. `passes`: how often it reads the weights. Floats
// are turned around faster than many tokens are multiplied by them.
Packing next_packing(const CpuWeight& w, int64_t passes, int64_t n_tokens, ThreadPool& pool) {
  if (w.packed) return Packing::done;
  bool can_pass = passes <= (w.quantised ? 1 : 2) && !w.seen;
  for (const auto& s : w.segments) can_pass = can_pass && (passes == 1 || has_passing_room(s, n_tokens, pool.size()));
  w.seen = true;
  if (can_pass) return Packing::pass;
  if (passes == 1) {
    w.packed = true;
    return Packing::keep;
  }
  pack_all(w, pool);
  return Packing::done;
}

}  // namespace

void cpu_matmul(ThreadPool& pool, const MatmulKernels& kernels, Mat out, const CpuWeight& w, ConstMat x,
                const float* bias, MatmulScratch& scratch, const AmxKernels* amx) {
  const bool tiles = amx && w.quantised && x.rows >= kMany;
  pack_activations(pool, kernels, w, tiles, x, scratch);
  if (tiles) pack_tiles(pool, *amx, x, scratch);
  if (w.paired) pack_pairs(pool, amx, w.split, x, scratch);
  const auto workers = static_cast<size_t>(pool.size());
  constexpr size_t share = 2 * kQuantRange * kPanelRows, range = 2 * kBf16Range * kPanelRows;
  const size_t sums =
      static_cast<size_t>(w.floating || w.paired ? kFloatPanels * (kFloatTokens + 24) : 2 * (kQuantTokens + 24)) *
      kPanelRows;
  if (x.rows >= kMany || w.paired) {
    if (w.quantised && scratch.codes.size() < share * workers) scratch.codes = Buffer<uint8_t>(share * workers);
    if (scratch.totals.size() < sums * workers) scratch.totals = Buffer<float>(sums * workers);
    if ((w.floating || w.paired) && scratch.values.size() < range * workers)
      scratch.values = Buffer<float>(range * workers);
  }
  const Cut cut = cut_of(w, x.rows, pool.size());
  const Packing packing = next_packing(w, (x.rows + cut.tokens - 1) / cut.tokens, x.rows, pool);
  const Job job{kernels, amx, tiles, out, w.cols, bias, scratch, w.split, packing, pool.size()};
  int64_t n_groups = 0;
  for (const auto& s : w.segments) n_groups += (panels_of(s.n_rows) + cut.panels - 1) / cut.panels;
  const int64_t n_items = n_groups * ((x.rows + cut.tokens - 1) / cut.tokens);
  std::atomic<int64_t> next{0};
  pool.run([&](int worker, int) {
    const auto index = static_cast<size_t>(worker);
    Room room{};
    room.worker = worker;
    if (scratch.codes.size() > 0) room.codes = scratch.codes.data() + index * share;
    if (scratch.totals.size() > 0) room.sums = scratch.totals.data() + index * sums;
    if (scratch.values.size() > 0) room.values = scratch.values.data() + index * range;
    for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < n_items;) {
      int64_t group = item % n_groups;
      const int64_t t0 = item / n_groups * cut.tokens, t1 = std::min(x.rows, t0 + cut.tokens);
      for (const auto& s : w.segments) {
        const int64_t panels = panels_of(s.n_rows), groups = (panels + cut.panels - 1) / cut.panels;
        if (group < groups) {
          const int64_t p0 = group * cut.panels, p1 = std::min(panels, p0 + cut.panels);
          (packing == Packing::done ? run_packed : run_from_file)(job, s, p0, p1, t0, t1, room);
          break;
        }
        group -= groups;
      }
    }
  });
}

}  // namespace foveal
