// The loaded model behind engine.h: files, backend, decoder, encoder, tokenizer. Immutable after load; sessions take
// turns on its backend.
#pragma once

#include <sys/types.h>

#include <mutex>

#include "engine/engine.h"
#include "engine/models/text_model.h"
#include "engine/runtime/placement.h"

namespace foveal {

// Layers [first, stop) and the backend that computes them. The first place is on the host (and embeds the tokens); a
// second one has the last layers and the output.
struct Place {
  Backend* backend = nullptr;
  const TextModel* text = nullptr;
  int first = 0, stop = 0;
  WeightStream* stream = nullptr;  // the weights pass through the backend; the rows are kept on the host
};

class ModelImpl final : public Model {
 public:
  ModelImpl(const std::string& path, const ModelOptions& options);

  const ModelInfo& info() const override { return info_; }
  std::shared_ptr<const Tokenizer> tokenizer() const override { return tokenizer_; }
  bool has_vision() const override { return vision_ != nullptr; }
  ImagePlan plan_image(int width, int height) const override;
  std::vector<Tile> preprocess(ImageView image) const override;
  ImageEmbedding encode_image(ImageView image, const CancelFlag* cancel, const Progress& progress) const override;
  ChatTemplate chat_template() const override;
  void set_chat_template(const std::string& name) const override;
  const std::string& template_text() const override { return template_text_; }
  std::string apply_template(const std::vector<Message>& messages) const override;
  std::unique_ptr<Session> load_session(const std::string& path) const override;
  std::unique_ptr<Session> session(const KvOptions& kv, int64_t n_ctx) const override;

  const TextModel& text() const { return *text_; }
  const VisionEncoder* vision() const { return vision_.get(); }
  Backend& backend() const { return *backend_; }  // the CPU's
  const std::vector<Place>& places() const { return places_; }
  // The same for reading a prompt of that many rows: with layers of the host's place streamed, the GPU has a place
  // before its own.
  std::vector<Place> prefill_places(int64_t rows) const;
  Backend* gpu() const { return gpu_.get(); }  // nullptr without one
  int gpu_layers() const { return gpu_text_ ? places_.back().stop - places_.back().first : 0; }
  bool streams() const { return stream_ != nullptr; }
  std::vector<Backend*> layer_backends() const;  // [n_layer]
  const VisionEncoder& need_vision() const;
  const VisionRoom& vision_room() const { return vision_room_; }  // on the GPU
  // Rows of a preprocessed picture. out_of_memory, before any work: the encoder's GPU has no room for so large a one.
  Matrix encode(const std::vector<Tile>& tiles, const ImagePlan& plan, const CancelFlag* cancel) const;
  // SHA-256 over shapes, types, vocabulary and samples of every tensor: which model (and mmproj) this is.
  const std::array<uint8_t, 32>& fingerprint() const { return fingerprint_; }
  // Held by whoever uses the backend.
  std::mutex& compute() const { return compute_; }
  // state error in a forked child, whose copy of the worker threads is dead.
  void check_process() const;

 private:
  void load_layers(const Placement& placement, const ModelOptions& o);

  std::shared_ptr<const Gguf> text_file_, mmproj_file_;
  std::unique_ptr<Backend> backend_, gpu_;  // gpu_: nullptr without one
  std::shared_ptr<const Tokenizer> tokenizer_;
  VisionRoom vision_room_;
  std::unique_ptr<VisionEncoder> vision_;
  std::unique_ptr<WeightStream> stream_;
  std::unique_ptr<TextModel> text_, gpu_text_, streamed_text_;
  std::vector<Place> places_;
  int64_t stream_rows_ = 0;  // prompts of so many rows are streamed
  ModelInfo info_;
  std::string template_text_;
  std::array<uint8_t, 32> fingerprint_{};
  pid_t process_;
  mutable std::mutex compute_, template_mutex_;
  mutable std::optional<ChatTemplate> template_;
};

}  // namespace foveal
