// The one Session behind engine.h. Split by concern over session.cpp (rows, queries about them), prefill.cpp,
// prefill_layers.cpp, decode.cpp, evict.cpp, measure.cpp, turn.cpp and reply.cpp (chat and generation), replay.cpp
// (undo, refresh), state_file.cpp and state_rows.cpp (save, load).
#pragma once

#include <chrono>

#include "engine/kv/select.h"
#include "engine/runtime/layer_kv.h"
#include "engine/runtime/model.h"
#include "engine/runtime/prompt.h"
#include "engine/runtime/sampler.h"

namespace foveal {

class SessionImpl final : public Session {
 public:
  SessionImpl(std::shared_ptr<const ModelImpl> model, const KvOptions& kv, int64_t n_ctx);
  SessionImpl(const SessionImpl& other);                                  // fork
  SessionImpl(const SessionImpl& other, std::unique_ptr<KvStore> store);  // the same over other rows

  void prefill(std::span<const Part> parts) override;
  void step(int32_t token) override;
  std::span<const float> logits() const override;
  const std::vector<int32_t>& tokens() const override { return tokens_; }
  int64_t pos() const override { return next_pos_; }
  size_t kv_bytes() const override { return store_->bytes(); }
  size_t kv_peak_bytes() const override { return store_->peak_bytes(); }
  std::vector<std::vector<int32_t>> kept(int il) const override;
  std::pair<std::vector<Matrix>, std::vector<Matrix>> kv_arrays(int il) const override;
  std::vector<Matrix> attention(int il, int64_t queries) const override;
  KvStats kv_stats() const override;
  KvStats evict(const KvOptions& kv) override;
  void pin(int64_t start, int64_t stop) override;
  std::unique_ptr<Session> fork(const KvOptions* evict) const override;
  UndoResult undo() override;
  void refresh(int index) override;
  std::unique_ptr<Session> replay(const KvOptions& kv) const override;
  void save(const std::string& path) const override;
  const KvOptions& kv_options() const override { return kv_; }
  int64_t n_ctx() const override { return n_ctx_; }
  std::shared_ptr<const Model> model() const override { return model_; }
  const std::vector<SeenImage>& images() const override { return seen_images_; }
  std::vector<SessionImage> image_rows() const override;

  void start_chat(const std::vector<Message>& messages, std::span<const ImageView> images,
                  const GenerateOptions& options) override;
  bool is_chat() const override { return !chat_messages_.empty(); }
  void start_next(const Message& user, std::span<const ImageView> images, const GenerateOptions& options) override;
  void start(std::span<const Part> parts, const GenerateOptions& options) override;
  void start_prompt(std::span<const Part> parts, const GenerateOptions& options) override;
  bool next(std::string& piece) override;
  const std::vector<int32_t>& reply_tokens() const override { return reply_tokens_; }
  const TurnStats& stats() const override { return stats_; }
  void cancel() noexcept override { cancelled_.store(true, std::memory_order_relaxed); }
  void set_progress(Progress progress) override { progress_ = std::move(progress); }

  // The other half of save(): fills a fresh session (state_file.cpp).
  static std::unique_ptr<SessionImpl> load(std::shared_ptr<const ModelImpl> model, const std::string& path);

  // Rows of a prefill that go through a layer together. Results don't depend on it.
  void set_chunk_rows(int64_t n) override;

 private:
  // Refuses a second caller (state error) and takes the model's backend for the call.
  class Use {
   public:
    explicit Use(const SessionImpl& s);
    ~Use();

   private:
    const SessionImpl& session_;
    std::unique_lock<std::mutex> lock_;
  };
  struct Undo;  // what a failed prefill puts back

  // What one token needs on its way through the layers of a place.
  struct DecodePlace {
    explicit DecodePlace(const Place& place);
    const Place& place;
    LayerScratch scratch;
    Matrix x, rope;
    DecodeKv kv;
    std::unique_ptr<StepGraph> step;  // nullptr: call by call
  };

  // Where a turn began, and what of the conversation belonged to the rows before it.
  struct Turn {
    int64_t first_row = 0, n_messages = 0, n_images = 0;
    int64_t unstepped = -1;  // token shown, not yet among the rows
  };
  // Rows [first, stop) that were read together; `newest`: where the prompt of their turn began, cached rows included.
  struct Prefill {
    int64_t first, stop, newest;
  };
  // What dropping the last turn's rows alone doesn't bring back.
  struct BeforeTurn {
    int64_t first_row = 0, budget = -1;
    std::vector<QueryRing> rings;
    std::vector<int64_t> evict_above;
    std::vector<float> logits;  // empty: none
  };

  // ---- prefill.cpp
  // beside: the session as it was before its past was cut; counted in the peak, and put back by the caller.
  void prefill_rows(PromptRows& rows, const SessionImpl* beside = nullptr);
  void check_room(const PromptRows& rows) const;
  void check_rows(const PromptRows& rows) const;
  void encode_images(PromptRows& rows);
  void check_cancelled() const;

  // ---- prefill_layers.cpp
  struct LayerRun;
  void run_layers(PromptRows& rows, size_t beside);
  void fill_hidden(const PromptRows& rows, Mat x) const;
  void add_deepstack(const PromptRows& rows, Mat x, int level, Backend& backend) const;

  // ---- decode.cpp
  void decode(int32_t token);  // one that fails leaves no row, and no logits
  void append_token(int32_t token);

  // ---- evict.cpp
  int64_t budget_rows(const KvOptions& kv, int64_t total_rows);  // rows per head; -1: everything
  // backend: in whose memory the rows are.
  SelectResult choose(Backend& backend, int il, const KvOptions& kv, int64_t budget, std::span<const KvHead> rows,
                      KvType type, std::span<const std::span<const int32_t>> index);
  bool note_choice(int il, const SelectResult& chosen, int64_t rows_before);
  int64_t mark_pinned(const KvOptions& kv, std::vector<uint8_t>& rows) const;
  void protect_rows(const KvOptions& kv);
  KvStats evict_from(const KvStore& from, const KvOptions& kv);
  std::vector<bool> evict_layers(const KvStore& from, std::span<const int> layers, const KvOptions& kv, int64_t budget);
  void check_queries(const KvOptions& kv) const;
  void keep_rows(const KvStore& from, int il, int ih, std::span<const int32_t> slots);
  void evict_after_step();
  bool evictable(int il) const { return params().sliding_window[static_cast<size_t>(il)] == 0; }
  void load_tables(const KvOptions& kv);

  // ---- gpu_room.cpp
  uint64_t gpu_kv_ceiling() const;
  void check_gpu_room() const;        // out_of_memory, with numbers, before any work
  uint64_t available_for_kv() const;  // bytes, as if every layer were where memory is shortest

  // ---- turn.cpp
  void begin_turn(const GenerateOptions& options);
  void read_whole(PromptRows& rows);
  bool continues_chat(const std::vector<Message>& messages, const std::vector<ImageId>& ids) const;
  void append_continuation(const std::vector<Message>& messages, std::span<const ImageView> images);
  int64_t reusable_rows(const PromptRows& rows);
  int64_t system_rows_of(const std::vector<Message>& messages, std::span<const PromptPiece> pieces,
                         const PromptRows& rows) const;
  int64_t newest_of(const std::vector<Message>& messages, std::span<const PromptPiece> pieces,
                    const PromptRows& rows) const;
  int64_t common_prefix(const PromptRows& rows) const;
  bool can_cut_at(int64_t n) const;
  void cut(int64_t n);
  void drop_rows(int64_t n);
  void clear();

  // ---- reply.cpp
  void begin_reply();
  std::vector<Message> conversation() const;
  void finish(const char* reason);
  void stop_reply();
  void flush(std::string& piece);
  bool take(std::string& piece);

  // ---- replay.cpp
  void replay_rows(const SessionImpl& from, int64_t n);
  PromptRows rows_again(int64_t first, int64_t stop) const;
  void check_cached(int64_t n) const;
  void take_rows(SessionImpl&& from);
  void take_all(SessionImpl&& from);

  // ---- state_file.cpp
  void write_state(class StateWriter& out) const;
  void read_state(class StateReader& in);
  void read_rows(class StateReader& in);
  void read_images(class StateReader& in);
  void check_positions(const class StateReader& in) const;
  void read_turns(class StateReader& in);
  void read_cache(class StateReader& in);

  const TextParams& params() const { return model_->text().params(); }
  int64_t n_rows() const { return static_cast<int64_t>(tokens_.size()); }

  std::shared_ptr<const ModelImpl> model_;
  KvOptions kv_;
  int64_t n_ctx_;
  std::unique_ptr<KvStore> store_;
  std::vector<QueryRing> rings_;  // [n_layer]

  // every row seen so far
  std::vector<int32_t> tokens_;
  std::vector<Position> positions_;
  std::vector<int32_t> image_of_;  // index into seen_images_, -1 for text
  std::vector<SeenImage> seen_images_;
  std::vector<std::pair<int64_t, int64_t>> pins_;
  int64_t system_rows_ = 0;                      // in front: the chat's system message
  std::pair<int64_t, int64_t> newest_prompt_{};  // rows of the newest turn's prompt
  int64_t next_pos_ = 0;
  int64_t evicted_before_ = 0;  // rows from here on have never been up for eviction
  std::vector<Turn> turns_;
  std::vector<Prefill> prefills_;          // those between were stepped
  std::optional<BeforeTurn> before_turn_;  // of the last turn
  bool evicted_by_hand_ = false;           // evict() was called: a replay doesn't repeat that

  // eviction
  int64_t budget_ = -1;                        // rows per head at the last prefill, -1: everything
  int64_t auto_rows_ = 0;                      // what Budget::automatic came to, chosen once; 0: not yet
  std::vector<int64_t> evict_above_;           // [n_layer] total rows of a layer that call for another eviction
  std::vector<uint8_t> protected_;             // [n_rows]
  std::vector<float> r_, kept_mass_;           // [n_layer * n_head_kv]
  std::vector<float> table_scores_, table_r_;  // SparseMM's and MixKV's tables, from kv_.tables
  int64_t evictions_ = 0;
  double evict_ms_ = 0;

  std::vector<DecodePlace> decode_;  // [places], sized once
  Matrix logits_;
  bool has_logits_ = false;
  int64_t chunk_rows_ = 512;
  std::shared_ptr<EmbeddingCache> embeddings_;

  // the running turn
  std::unique_ptr<Sampler> sampler_;
  std::optional<StreamDecoder> decoder_;
  GenerateOptions options_;
  std::vector<int32_t> reply_tokens_;
  std::optional<int32_t> unstepped_;  // sampled and shown, not yet in the cache
  std::string held_;                  // text that may be the start of a stop string
  std::string reply_text_;
  bool running_ = false;
  TurnStats stats_;
  std::vector<Message> chat_messages_;  // the conversation that the rows stand for, reply included
  std::vector<ImageId> chat_images_;

  mutable std::atomic<bool> busy_{false};
  mutable std::atomic<bool> cancelled_{false};
  const SessionImpl* reader_ = nullptr;  // the session that has this one read its rows again: its cancel() counts
  Progress progress_;
};

// Milliseconds since construction.
class Stopwatch {
 public:
  double ms() const {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace foveal
