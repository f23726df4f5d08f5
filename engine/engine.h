// The whole public face of the engine: what the Python module and the programs in tools/ include, and nothing else.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "engine/core/error.h"
#include "engine/kv/options.h"
#include "engine/text/chat.h"
#include "engine/text/tokenizer.h"
#include "engine/vision/image.h"
#include "engine/vision/vision.h"

namespace foveal {

const char* version();
std::vector<std::string> list_devices();  // a line each, as --list-devices prints them

// ------------------------------------------------------------------------------------------------ model

// Called now and then during load, image encoding and prefill: what is done, and the share of it (0..1). Called from
// the caller's thread.
using Progress = std::function<void(const char* what, float share)>;

struct ModelOptions {
  std::string mmproj;           // "" = text only
  std::string device = "auto";  // "auto" | "cpu" | "cuda" | "cuda:N"
  int gpu_layers = -1;          // the last layers go to the GPU; -1 = as many as fit
  // "auto" | "on" | "off": layers on the CPU are computed on the GPU while a prompt is read, their weights streamed
  // through it; auto: where the prompt is long enough for that to be faster.
  std::string stream_prefill = "auto";
  bool mmproj_offload = true;                      // the picture encoder goes to the GPU too, where layers do
  int threads = 0;                                 // 0 = physical cores
  int image_min_tokens = 0, image_max_tokens = 0;  // 0 = the file's or the family's own limits
  // "auto" | "f32" | "bf16" | "bf16x3": products of the picture encoder's transformer. The two with bfloat16 are faster
  // on CPUs that have AMX (unsupported elsewhere): bf16 leaves embeddings within a per cent, bf16x3 within 1e-5, near
  // f32 (docs/performance.md). auto: bf16x3 where the CPU has AMX, f32 elsewhere. Any other
  // than auto keeps the encoder on the CPU.
  std::string vision_precision = "auto";
  Progress progress;
};

struct VisionInfo {
  std::string projector;
  int row_width = 0;
  std::vector<std::pair<std::string, std::string>> details;
};

struct ModelInfo {
  std::string arch, name, file_type, backend;
  std::string placement;  // which layers are on which GPU and what they need there; "" when no GPU was looked at
  int n_layer = 0, n_head = 0, n_head_kv = 0, head_dim = 0, n_embd = 0, n_vocab = 0, n_ctx_train = 0;
  std::vector<int> sliding_window;  // [n_layer] rows that a layer sees; 0: everything (and it may be evicted)
  uint64_t bytes = 0;               // of the file(s)
  std::optional<VisionInfo> vision;
  std::vector<std::string> warnings;
};

struct ImageEmbedding {  // rows in the sequence's place of a picture
  Matrix rows;           // [n_rows, row_width]
  ImagePlan plan;
};

class Session;

class Model : public std::enable_shared_from_this<Model> {
 public:
  static std::shared_ptr<const Model> load(const std::string& path, const ModelOptions& options = {});
  virtual ~Model() = default;

  virtual const ModelInfo& info() const = 0;
  virtual std::shared_ptr<const Tokenizer> tokenizer() const = 0;
  virtual bool has_vision() const = 0;
  virtual ImagePlan plan_image(int width, int height) const = 0;
  virtual std::vector<Tile> preprocess(ImageView image) const = 0;  // for checks
  virtual ImageEmbedding encode_image(ImageView image, const CancelFlag* cancel = nullptr,
                                      const Progress& progress = {}) const = 0;
  // The template that chat uses: detected from the file, or set by name; throws when neither works.
  virtual ChatTemplate chat_template() const = 0;
  virtual void set_chat_template(const std::string& name) const = 0;
  // The file's own template text, "" when it has none (never executed here).
  virtual const std::string& template_text() const = 0;
  // The prompt as text, images as <__media__>. For looking at; prefill uses pieces.
  virtual std::string apply_template(const std::vector<Message>& messages) const = 0;

  // Opens what Session::save wrote. Every bit is covered by a checksum (file_format); another model, quantisation,
  // mmproj or format version is a mismatch that names both.
  virtual std::unique_ptr<Session> load_session(const std::string& path) const = 0;
  virtual std::unique_ptr<Session> session(const KvOptions& kv = {},
                                           int64_t n_ctx = 0) const = 0;  // 0: min(trained, 8192)
};

// ------------------------------------------------------------------------------------------------ session

// A part of a prompt: ids as they are; text (special: control tokens are parsed); a picture (copied by the call).
using Part = std::variant<std::vector<int32_t>, TextPiece, ImageView>;

struct SampleOptions {
  float temperature = 0.0f;  // 0 = greedy
  int top_k = 40;            // 0 = off
  float top_p = 0.95f, min_p = 0.05f;
  float repeat_penalty = 1.0f;
  int repeat_last_n = 64;
  std::optional<uint64_t> seed;  // none: a fresh one, reported in the stats
};

struct GenerateOptions {
  SampleOptions sample;
  int64_t max_tokens = 256;  // -1 = until the end or the context is full
  std::vector<std::string> stop;
  bool ignore_eos = false;
};

struct Timings {  // milliseconds of the last turn
  double image_encode = 0, prefill = 0, evict = 0, decode = 0;
};

struct KvStats {
  int64_t rows_min = 0, rows_max = 0;  // rows kept per head, over all evictable layers and heads
  double rows_mean = 0;
  size_t bytes = 0, bytes_without_eviction = 0, bytes_peak = 0;
  int64_t budget_rows = -1;      // rows per head on average that the budget came to; -1: everything is kept
  int64_t evictions = 0;         // times that a layer was evicted in this turn
  std::vector<float> r;          // [n_layer * n_head_kv] redundancy at the last eviction (empty: none yet)
  std::vector<float> kept_mass;  // [n_layer * n_head_kv] window attention mass on kept rows
};

struct TurnStats {
  int64_t prompt_tokens = 0, image_tokens = 0, cached_tokens = 0, completion_tokens = 0;
  std::string finish_reason;  // "stop" | "length" | "context" | "cancelled" | "error" | "" while running
  bool started_over = false;  // chat: the past had changed, so the cache was dropped
  std::string note;           // in words, what the user should know ("the past changed at message 2: ...")
  uint64_t seed = 0;
  Timings ms;
  KvStats kv;
};

struct SessionImage {
  std::vector<int32_t> rows;        // [plan->n_rows]
  const ImagePlan* plan = nullptr;  // the session's
};

struct UndoResult {
  bool replayed = false;  // false: the rows were dropped, nothing was computed
  int64_t rows = 0;       // rows that went
  std::string note;       // in words
};

class Session {
 public:
  virtual ~Session() = default;

  // ---- rows in, logits out. A failed call leaves the session as it was (a cancelled prefill likewise).
  // `trusted` pieces and ids as given; BOS first at position 0 when the file asks for it and the parts begin with text
  // (not ids) that doesn't start with it. Ends with eviction.
  virtual void prefill(std::span<const Part> parts) = 0;
  virtual void step(int32_t token) = 0;               // one token; logits updated
  virtual std::span<const float> logits() const = 0;  // [n_vocab], for the next token; state error before any prefill

  virtual const std::vector<int32_t>& tokens() const = 0;  // ids seen, -1 for image rows
  virtual int64_t pos() const = 0;                         // true position of the next token
  virtual size_t kv_bytes() const = 0;
  virtual size_t kv_peak_bytes() const = 0;
  virtual std::vector<std::vector<int32_t>> kept(int il) const = 0;  // [n_head_kv] token indices, ascending
  // K and V rows as float32, [n_head_kv] of [kept, head_dim].
  virtual std::pair<std::vector<Matrix>, std::vector<Matrix>> kv_arrays(int il) const = 0;
  // Softmax attention of the newest `queries` rows' queries over the rows that layer `il` holds, float32: per KV head a
  // matrix [group * queries, kept], query head major; a query sees no later row. The newest 64 queries (or `window`, if
  // more) are remembered. Errors: invalid_argument; unsupported for a layer with a sliding window.
  virtual std::vector<Matrix> attention(int il, int64_t queries) const = 0;
  virtual KvStats kv_stats() const = 0;               // of this moment
  virtual KvStats evict(const KvOptions& kv) = 0;     // evict now by other options
  virtual void pin(int64_t start, int64_t stop) = 0;  // rows of these token indices are never evicted
  // A copy, KV rows included: costs kv_bytes() again; with options only the rows that evict() would leave it, the
  // others never being copied.
  virtual std::unique_ptr<Session> fork(const KvOptions* evict = nullptr) const = 0;
  // Takes back the last turn (a prefill, chat or generate call, and the tokens that followed). Rows that were never up
  // for eviction are dropped exactly; otherwise the turns before are computed again, step for step, from the pictures'
  // cached embeddings. Errors (before anything changes): state when there is no turn, or a picture isn't cached.
  virtual UndoResult undo() = 0;
  // Reads picture `index` of images() again at the current position, without the encoder. State error when its
  // embeddings aren't cached (a loaded session, or beyond the cache's ceiling).
  virtual void refresh(int index) = 0;
  // A session that reads everything again that this one has seen, turn by turn, under other options.
  virtual std::unique_ptr<Session> replay(const KvOptions& kv) const = 0;
  // Writes everything that the session is (budget-sized) to one file, atomically: a crash leaves the old file or the
  // new one. Errors: io.
  virtual void save(const std::string& path) const = 0;
  virtual const KvOptions& kv_options() const = 0;
  virtual int64_t n_ctx() const = 0;
  virtual std::shared_ptr<const Model> model() const = 0;

  // ---- images seen, for heat maps: first token index, plan
  struct SeenImage {
    int64_t first_row = 0;
    ImagePlan plan;
    std::array<uint8_t, 32> hash{};
  };
  virtual const std::vector<SeenImage>& images() const = 0;
  // The same with the token index of each of a picture's rows (other tokens may stand between them).
  virtual std::vector<SessionImage> image_rows() const = 0;

  // ---- a chat turn: start_chat() prefills what the session doesn't hold yet; next() pulls text until it returns
  // false. A start that fails or is cancelled leaves the session as it was, also when the past had changed: the rows
  // that were cut stay beside until the new ones are read, and count in the peak. A reply that is not pulled to its end
  // ends where it stands ("cancelled") with the next call; one that fails, with "error".
  virtual void start_chat(const std::vector<Message>& messages, std::span<const ImageView> images,
                          const GenerateOptions& options) = 0;
  // Whether the rows are a conversation that start_next() goes on with.
  virtual bool is_chat() const = 0;
  // Another user message after the chat so far (or the first one); image indices of its parts count from 0.
  virtual void start_next(const Message& user, std::span<const ImageView> images, const GenerateOptions& options) = 0;
  // The same for parts prepared by the caller (raw prompt).
  virtual void start(std::span<const Part> parts, const GenerateOptions& options) = 0;
  // Parts that are the whole conversation from position 0, rendered by the caller (a template of its own): what the
  // session already holds is reused, as in start_chat.
  virtual void start_prompt(std::span<const Part> parts, const GenerateOptions& options) = 0;
  virtual bool next(std::string& piece) = 0;  // whole UTF-8; "" is possible; false: finished
  virtual const std::vector<int32_t>& reply_tokens() const = 0;
  virtual const TurnStats& stats() const = 0;

  // May be called from any thread or a signal handler; the running call stops soon (ErrorCode::state "cancelled" from
  // prefill; next() ends with finish_reason "cancelled").
  virtual void cancel() noexcept = 0;
  virtual void set_progress(Progress progress) = 0;
  // Rows of a prefill that go through a layer together, >= 1 (default 512). Results don't depend on it: for checks.
  virtual void set_chunk_rows(int64_t n) = 0;
};

// ------------------------------------------------------------------------------------------------ without a model

struct FileDescription {  // `foveal info`
  std::string path;
  uint32_t version = 0;
  uint64_t bytes = 0;
  std::vector<std::pair<std::string, std::string>> metadata;
  struct Tensor {
    std::string name, type, shape;
    uint64_t bytes;
  };
  std::vector<Tensor> tensors;
  std::vector<std::string> warnings;
};
FileDescription describe_file(const std::string& path);

struct PlanImage {
  int width = 0, height = 0, count = 1;
};
struct PlanQuery {  // a conversation to come
  std::string model, mmproj;
  std::vector<PlanImage> images;                            // dealt to the turns as evenly as can be, early turns first
  int64_t turns = 1, text_tokens = 64, reply_tokens = 256;  // tokens a turn beside pictures
  int image_min_tokens = 0, image_max_tokens = 0;
  KvOptions kv;
  int threads = 0;      // as in ModelOptions: each worker has scratch of its own
  uint64_t memory = 0;  // bytes to fit in; 0: what the system has available
};
struct PlanTurn {
  int64_t image_rows = 0, rows = 0;          // of its pictures; seen by its end
  uint64_t kv_bytes = 0, kv_bytes_full = 0;  // held at its end; without eviction
  uint64_t prefill_peak = 0;                 // most KV bytes while its prompt is read
};
struct MemoryPlan {                     // bytes
  std::vector<int64_t> rows_per_image;  // of each PlanImage
  std::vector<PlanTurn> turns;
  uint64_t text_weights = 0, vision_weights = 0;  // packed for the CPU; the files' mappings are the system's to drop
  uint64_t encoder_scratch = 0, prefill_scratch = 0, embedding_cache = 0, fixed = 0;
  uint64_t total = 0;  // most that is held at one time
  uint64_t memory = 0;
  bool fits = false;
  std::string advice;  // flags that would make it fit; "" when it does
};
// From the headers alone: no weight is read. Errors: those of Model::load for headers; invalid_argument.
MemoryPlan plan_memory(const PlanQuery& query);
uint64_t available_memory();  // what the system could give now; 0 when unknown

std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& path);

// Rows of float32 [rows, cols] as a tensor type's blocks, row after row, and back. Types by their names in ggml;
// written are F32, F16, Q4_0, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, read is every type that models may have. Errors:
// invalid_argument (unknown type, cols no multiple of the type's block, a size that doesn't fit, a value that is no
// number or above 65504, the largest in half precision).
std::vector<uint8_t> quantize_rows(const std::string& type, std::span<const float> x, int64_t cols);
std::vector<float> dequantize_rows(const std::string& type, std::span<const uint8_t> blocks, int64_t cols);

struct EvictQuery {                        // foveal.evict.select
  const float *k = nullptr, *v = nullptr;  // [n_head_kv][n][head_dim]
  const float* q = nullptr;                // [n_head][window][head_dim]
  int64_t n = 0;
  int n_head = 0, n_head_kv = 0, head_dim = 0;
  int il = 0, n_layer = 1, window = 32, kernel = 5, sinks = 0;
  int64_t budget = 64;
  Policy policy = Policy::snapkv;
  Mix mix = Mix::mixkv;
  double floor = 0.2, beta = 20, rho = 0.1;
  uint64_t seed = 0;
  std::span<const float> head_weight, head_scores;
};
std::vector<std::vector<int32_t>> evict_select(const EvictQuery& query);

}  // namespace foveal
