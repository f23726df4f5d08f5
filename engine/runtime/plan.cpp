// What a conversation would take, from the headers alone: rows and KV bytes a turn, weights, scratch, and whether it
// fits. The KV store's own arithmetic is used, so the figures are those that a session then counts.
#include <algorithm>
#include <cstdio>

#include "engine/backend/header_backend.h"
#include "engine/engine.h"
#include "engine/kv/store.h"
#include "engine/models/text_model.h"
#include "engine/text/tokenizer.h"

namespace foveal {

uint64_t available_memory() {
  std::FILE* f = std::fopen("/proc/meminfo", "r");
  if (!f) return 0;
  char line[128];
  unsigned long long kib = 0;
  while (std::fgets(line, sizeof line, f))
    if (std::sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break;
  std::fclose(f);
  return uint64_t{kib} * 1024;
}

namespace {

constexpr uint64_t kEmbeddingCache = 256u << 20;  // a session's ceiling
constexpr int64_t kRingRows = 64, kChunkRows = 512, kContext = 8192;
constexpr int64_t kTokenBytes = 20;  // id, position, picture: reserved for the context

struct Files {
  Files(const PlanQuery& q, int max_tokens) {
    const auto text = Gguf::open(q.model);
    params = read_text_params(*text);
    HeaderBackend text_backend;
    load_text_model(text, text_backend);
    text_weights = static_cast<uint64_t>(text_backend.weight_bytes);
    most_quantised = text_backend.most_quantised;
    most_floating = text_backend.most_floating;
    if (q.mmproj.empty()) return;
    tokenizer = Tokenizer::load(*text);
    const auto mmproj = Gguf::open(q.mmproj);
    tile_side = static_cast<int>(mmproj->find_int("clip.vision.image_size", 1, kMaxImageSide).value_or(0));
    vision = load_vision(mmproj, *text, vision_backend, {q.image_min_tokens, max_tokens});
    vision_weights = static_cast<uint64_t>(vision_backend.weight_bytes);
    if (const TensorInfo* second = mmproj->find_tensor("v.patch_embd.weight.1"))  // loaded to be added to the first
      vision_weights -= static_cast<uint64_t>(second->rows() * second->cols()) * sizeof(float);
  }
  TextParams params;
  HeaderBackend vision_backend;
  std::unique_ptr<VisionEncoder> vision;
  std::shared_ptr<const Tokenizer> tokenizer;  // for the text that wraps a picture
  uint64_t text_weights = 0, vision_weights = 0;
  int64_t most_quantised = 0, most_floating = 0;
  int tile_side = 0;
};

// A picture of the conversation, and what follows from its size.
struct Picture {
  ImagePlan plan;
  int64_t wrapping = 0;  // tokens around its rows
  CpuScratch products;   // of the encoder
};

// The encoder runs on a backend that only counts: tiles without pixels will do.
Picture look_at(Files& files, const PlanImage& image) {
  Picture out;
  out.plan = files.vision->plan(image.width, image.height);
  for (const ImagePiece& piece : out.plan.pieces)
    if (piece.n_rows == 0) out.wrapping += static_cast<int64_t>(files.tokenizer->encode(piece.text, true).size());
  Tile tile;
  const bool whole = out.plan.grid_cols > 0;  // one tile of any size, or squares of the encoder's own
  tile.width = whole ? out.plan.resized_width : files.tile_side;
  tile.height = whole ? out.plan.resized_height : files.tile_side;
  files.vision_backend.scratch = {};
  files.vision->encode(std::vector<Tile>(static_cast<size_t>(out.plan.n_tiles), tile), out.plan, nullptr);
  out.products = files.vision_backend.scratch;
  return out;
}

// Pictures in the order given, dealt to the turns as evenly as can be, early turns first.
std::vector<std::vector<Picture>> deal(const PlanQuery& q, Files& files) {
  std::vector<Picture> all;
  for (const PlanImage& image : q.images) {
    if (!files.vision) fail(ErrorCode::invalid_argument, "plan: pictures need an mmproj file");
    check_image_size(image.width, image.height);
    all.insert(all.end(), static_cast<size_t>(image.count), look_at(files, image));
  }
  std::vector<std::vector<Picture>> turns(static_cast<size_t>(q.turns));
  const size_t n = turns.size();
  for (size_t t = 0, at = 0; t < n; ++t)
    for (const size_t stop = (all.size() * (t + 1) + n - 1) / n; at < stop; ++at) turns[t].push_back(all[at]);
  return turns;
}

class Planner {
 public:
  Planner(const PlanQuery& q, const Files& files, const KvOptions& kv) : q_(q), files_(files), kv_(kv) {
    const TextParams& p = files.params;
    KvShape shape{p.n_layer, p.n_head_kv, p.head_dim, 1, kv.dtype};
    store_ = std::make_unique<KvStore>(shape, backend_);
  }

  MemoryPlan run(const std::vector<std::vector<Picture>>& turns) {
    const TextParams& p = files_.params;
    MemoryPlan out;
    out.text_weights = files_.text_weights;
    out.vision_weights = files_.vision_weights;
    // The last queries and the logits: now, before this turn, and before the last one while the next is read.
    const int64_t ring =
        std::max<int64_t>(kRingRows, kv_.window) * (int64_t{p.n_head} * p.head_dim + 1) * 4 * p.n_layer;
    const auto copies = static_cast<int64_t>(std::min<size_t>(turns.size(), 3));
    out.fixed = static_cast<uint64_t>((ring + int64_t{p.n_vocab} * 4) * copies);
    int64_t seen = 0;
    uint64_t embeddings = 0, before = 0, peak = 0;
    CpuScratch cpu;
    for (const auto& images : turns) {
      PlanTurn turn;
      uint64_t encoder = 0, pixels = 0;
      int64_t wrapping = 0, longest_picture = 0;
      for (const Picture& image : images) {
        turn.image_rows += image.plan.n_rows;
        wrapping += image.wrapping;
        if (image.plan.bidirectional) longest_picture = std::max<int64_t>(longest_picture, image.plan.n_rows);
        pixels += 3u * static_cast<uint64_t>(image.plan.width) * static_cast<uint64_t>(image.plan.height);
        encoder = std::max(encoder, static_cast<uint64_t>(image.plan.scratch_bytes));
        out.encoder_scratch = std::max(
            out.encoder_scratch, static_cast<uint64_t>(image.plan.scratch_bytes + image.products.bytes(q_.threads)));
        cpu.add(image.products);
        embeddings += static_cast<uint64_t>(image.plan.n_rows) * static_cast<uint64_t>(files_.vision->row_width()) * 4;
      }
      embeddings = std::min(embeddings, kEmbeddingCache);
      const int64_t prompt = turn.image_rows + wrapping + q_.text_tokens;
      const int64_t longest = std::min(seen, held(seen, q_.reply_tokens)) + prompt;
      seen += prompt;
      const uint64_t layer = 8u * static_cast<uint64_t>(longest * p.head_dim * p.n_head_kv);
      const uint64_t after = bytes(held(seen, 0), seen);
      const uint64_t start = before;
      const bool beside = before > 0 && (kv_.budget.kind != Budget::everything || p.n_rope_tables > 1);
      turn.prefill_peak = std::max(after, before) + layer + (beside ? before : 0);
      seen += q_.reply_tokens;
      turn.rows = seen;
      turn.kv_bytes = before = bytes(held(seen, q_.reply_tokens), seen, q_.reply_tokens);
      turn.kv_bytes_full = bytes(seen, seen);
      const int64_t chunk = std::max(std::min(prompt, kChunkRows), longest_picture);
      if (files_.most_quantised > 0) cpu.product(chunk, files_.most_quantised, true);
      if (files_.most_floating > 0) cpu.product(chunk, files_.most_floating, false);
      cpu.attention(p.n_head_kv, p.n_head / p.n_head_kv, p.head_dim, longest);
      const uint64_t scratch = prefill_scratch(prompt, chunk, longest);
      out.prefill_scratch = std::max(out.prefill_scratch, scratch);
      peak = std::max({peak, turn.prefill_peak + scratch + embeddings + pixels,
                       encoder + (beside ? 2 : 1) * start + embeddings + pixels});
      out.turns.push_back(turn);
    }
    out.embedding_cache = embeddings;
    const int64_t n_ctx = std::max(std::min<int64_t>(kContext, p.n_ctx_train), seen);
    out.fixed += static_cast<uint64_t>(kTokenBytes * n_ctx + cpu.bytes(q_.threads));
    out.total = out.text_weights + out.vision_weights + out.fixed + peak;
    out.memory = q_.memory > 0 ? q_.memory : available_memory();
    out.fits = out.total <= out.memory;
    return out;
  }

 private:
  // Rows per head when `seen` have been seen, `decoded` of them since the last prefill.
  int64_t held(int64_t seen, int64_t decoded) const {
    switch (kv_.budget.kind) {
      case Budget::rows:
        return std::min(seen, static_cast<int64_t>(kv_.budget.value) + std::min<int64_t>(decoded, kv_.slack));
      case Budget::percent: {
        const auto rows = static_cast<int64_t>(kv_.budget.value / 100 * static_cast<double>(seen - decoded) + 0.999);
        return std::min(seen,
                        std::max<int64_t>(rows, kv_.window + kv_.sinks + 1) + std::min<int64_t>(decoded, kv_.slack));
      }
      case Budget::bytes: {
        int64_t rows = 0;
        for (int64_t step = int64_t{1} << 24; step > 0; step /= 2)
          if (static_cast<double>(bytes(rows + step, seen)) <= kv_.budget.value) rows += step;
        return std::min(seen, rows);
      }
      default:
        return seen;
    }
  }

  // Of the whole store; layers with a sliding window hold that and up to 63 decoded rows, whatever the budget.
  uint64_t bytes(int64_t rows, int64_t seen, int64_t decoded = 0) const {
    uint64_t sum = 0;
    const TextParams& p = files_.params;
    for (const int window : p.sliding_window)
      sum += static_cast<uint64_t>(p.n_head_kv) *
             store_->head_bytes(window > 0 ? std::min(seen, window + std::min<int64_t>(decoded, 63)) : rows);
    return sum;
  }

  // rows: of the prompt; chunk: of them that go through a layer together; longest: rows of a head in attention.
  uint64_t prefill_scratch(int64_t rows, int64_t chunk, int64_t longest) const {
    const TextParams& p = files_.params;
    const int64_t hidden = rows * (int64_t{p.n_embd} + int64_t{p.n_rope_tables} * p.n_rot) * 4;
    const int64_t lists = rows * 40 + longest * p.n_head_kv * 4;  // masks, positions, token indices
    const int64_t scores =
        kv_.budget.kind == Budget::everything
            ? 0
            : longest * (int64_t{p.n_head_kv} * 48 + int64_t{kv_.window} * p.n_head / p.n_head_kv * 4);
    return static_cast<uint64_t>(hidden + lists + scores) + LayerScratch(p, 1).bytes() * static_cast<uint64_t>(chunk);
  }

  const PlanQuery& q_;
  const Files& files_;
  KvOptions kv_;
  HeaderBackend backend_;
  std::unique_ptr<KvStore> store_;
};

// The mildest change that makes it fit, as a flag.
std::string advise(const PlanQuery& q, Files& files, const MemoryPlan& plan) {
  const int64_t least = int64_t{q.kv.window} + q.kv.sinks + 1;
  const auto fits_with = [&](int64_t rows, const Files& f, const std::vector<std::vector<Picture>>& turns) {
    KvOptions kv = q.kv;
    kv.budget = {Budget::rows, static_cast<double>(rows)};
    return Planner(q, f, kv).run(turns).fits;
  };
  const auto largest = [&](Files& f) {  // the largest budget that fits, 0: none
    const auto turns = deal(q, f);
    if (!fits_with(least, f, turns)) return int64_t{0};
    int64_t low = least, high = std::max(least, plan.turns.back().rows);
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      const bool fits = fits_with(middle, f, turns);
      (fits ? low : high) = fits ? middle : middle - 1;
    }
    return low;
  };
  if (const int64_t rows = largest(files)) return cat("--kv-budget ", rows);
  int64_t most = 0;
  for (const PlanImage& image : q.images)
    most = std::max<int64_t>(most, files.vision->plan(image.width, image.height).n_rows);
  for (int64_t rows = most / 2; rows >= 64; rows /= 2) {
    try {
      Files smaller(q, static_cast<int>(rows));
      if (const int64_t budget = largest(smaller)) return cat("--image-max-tokens ", rows, " --kv-budget ", budget);
    } catch (const Error&) {
      break;  // fewer than the family allows
    }
  }
  return cat("nothing: weights alone take ", (plan.text_weights + plan.vision_weights) >> 20, " MiB; a smaller ",
             "quantisation or more memory is needed");
}

}  // namespace

MemoryPlan plan_memory(const PlanQuery& q) {
  check_kv_options(q.kv);
  if (q.turns < 1 || q.turns > 100000) fail(ErrorCode::invalid_argument, "plan: turns: found ", q.turns);
  if (q.text_tokens < 1 || q.reply_tokens < 0 || q.text_tokens > 1 << 24 || q.reply_tokens > 1 << 24)
    fail(ErrorCode::invalid_argument, "plan: tokens a turn: found ", q.text_tokens, " and ", q.reply_tokens);
  for (const PlanImage& image : q.images)
    if (image.count < 1 || image.count > 100000)
      fail(ErrorCode::invalid_argument, "plan: number of pictures: found ", image.count);
  Files files(q, q.image_max_tokens);
  MemoryPlan plan = Planner(q, files, q.kv).run(deal(q, files));
  for (const PlanImage& image : q.images)
    plan.rows_per_image.push_back(files.vision->plan(image.width, image.height).n_rows);
  if (!plan.fits) plan.advice = advise(q, files, plan);
  return plan;
}

}  // namespace foveal
