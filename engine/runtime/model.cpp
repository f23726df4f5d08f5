// Loading: headers are checked against each other before any weight is read.
#include "engine/runtime/model.h"

#include <unistd.h>

#include <cmath>

#include "engine/core/sha256.h"
#include "engine/runtime/session.h"
#include "engine/runtime/stream_times.h"

namespace foveal {

namespace {

VisionPrecision precision_of(const std::string& name) {
  if (name == "auto") return VisionPrecision::automatic;
  if (name == "f32") return VisionPrecision::f32;
  if (name == "bf16") return VisionPrecision::bf16;
  if (name == "bf16x3") return VisionPrecision::bf16x3;
  fail(ErrorCode::invalid_argument, "vision_precision: found ", quoted(name),
       ", expected 'auto', 'f32', 'bf16' or 'bf16x3'");
}

const char* file_type_name(int64_t type) {
  switch (type) {
    case 0:
      return "F32";
    case 1:
      return "F16";
    case 2:
      return "Q4_0";
    case 3:
      return "Q4_1";
    case 7:
      return "Q8_0";
    case 8:
      return "Q5_0";
    case 9:
      return "Q5_1";
    case 10:
      return "Q2_K";
    case 11:
      return "Q3_K_S";
    case 12:
      return "Q3_K_M";
    case 13:
      return "Q3_K_L";
    case 14:
      return "Q4_K_S";
    case 15:
      return "Q4_K_M";
    case 16:
      return "Q5_K_S";
    case 17:
      return "Q5_K_M";
    case 18:
      return "Q6_K";
    case 25:
      return "IQ4_NL";
    case 30:
      return "IQ4_XS";
    case 32:
      return "BF16";
    default:
      return "mixed";
  }
}

void check_is_text(const Gguf& file) {
  const std::string* arch = file.find_string("general.architecture");
  if (arch && *arch == "clip")
    fail(
        ErrorCode::unsupported, file.path(),
        ": this is a vision projector (general.architecture 'clip'), expected a text model; did you swap the model and "
        "the mmproj file?");
}

// Shapes, types and 512 bytes of every tensor, and the vocabulary: enough to tell any two models apart in milliseconds.
void add_fingerprint(Sha256& sha, const Gguf& file) {
  const auto add = [&](std::string_view s) {
    sha.update({reinterpret_cast<const uint8_t*>(s.data()), s.size()});
    sha.update({reinterpret_cast<const uint8_t*>("\0"), 1});
  };
  for (const char* key : {"general.architecture", "general.name", "tokenizer.ggml.model", "tokenizer.ggml.pre"})
    if (const std::string* v = file.find_string(key)) add(*v);
  if (const auto tokens = file.find_string_views("tokenizer.ggml.tokens", 0, UINT64_MAX))
    for (const std::string_view t : *tokens) add(t);
  for (const TensorInfo& t : file.tensors()) {
    add(t.name);
    add(cat(static_cast<int>(t.type), t.shape()));
    const uint64_t n = std::min<uint64_t>(t.bytes, 256);
    sha.update({t.data, static_cast<size_t>(n)});
    sha.update({t.data + (t.bytes - n), static_cast<size_t>(n)});
  }
}

}  // namespace

std::shared_ptr<const Model> Model::load(const std::string& path, const ModelOptions& options) {
  return std::make_shared<ModelImpl>(path, options);
}

ModelImpl::ModelImpl(const std::string& path, const ModelOptions& o) : process_(getpid()) {
  if (o.threads < 0 || o.threads > 1024)
    fail(ErrorCode::invalid_argument, "threads: found ", o.threads,
         ", expected 1 to 1024, or 0 for all physical cores");
  const VisionPrecision precision = precision_of(o.vision_precision);
  if (o.image_min_tokens < 0 || o.image_max_tokens < 0 ||
      (o.image_max_tokens > 0 && o.image_min_tokens > o.image_max_tokens))
    fail(ErrorCode::invalid_argument, "image_min_tokens ", o.image_min_tokens, ", image_max_tokens ",
         o.image_max_tokens, ": expected 0 < min <= max");
  const auto report = [&](const char* what, float share) {
    if (o.progress) o.progress(what, share);
  };
  report("reading headers", 0.0f);
  text_file_ = Gguf::open(path);
  check_is_text(*text_file_);
  const TextParams params = read_text_params(*text_file_);
  const GpuDevices devices = o.device == "cpu" ? GpuDevices{} : cuda_devices();
  if (!o.mmproj.empty()) mmproj_file_ = Gguf::open(o.mmproj);
  const VisionOptions vision{o.image_min_tokens, o.image_max_tokens, precision};
  const bool offload =
      mmproj_file_ && o.mmproj_offload && precision == VisionPrecision::automatic && !devices.found.empty();
  if (offload) vision_room_ = foveal::vision_room(mmproj_file_, *text_file_, vision);
  const Placement placement = place_layers(*text_file_, params, o, devices, vision_room_);
  if (!placement.vision) vision_room_ = {};
  tokenizer_ = Tokenizer::load(*text_file_);
  backend_ = make_cpu_backend(o.threads);
  if (placement.device >= 0) gpu_ = make_cuda_backend(placement.device);
  if (mmproj_file_) {
    report("loading the vision encoder", 0.05f);
    vision_ = load_vision(mmproj_file_, *text_file_, placement.vision ? *gpu_ : *backend_, vision);
  }
  load_layers(placement, o);
  Sha256 sha;
  add_fingerprint(sha, *text_file_);
  if (mmproj_file_) {
    add_fingerprint(sha, *mmproj_file_);
    const std::string how = vision_->preprocessing_id();
    sha.update({reinterpret_cast<const uint8_t*>(how.data()), how.size()});
  }
  fingerprint_ = sha.finish();
  if (const std::string* t = text_file_->find_string("tokenizer.chat_template")) template_text_ = *t;

  info_.arch = params.arch;
  info_.name = params.name;
  info_.file_type = file_type_name(text_file_->find_int("general.file_type", 0, 1 << 20).value_or(-1));
  info_.backend = backend_->name();
  if (gpu_)
    info_.backend = cat(gpu_->name(), placement.vision ? ", pictures and " : ", ", placement.gpu_layers, " of ",
                        params.n_layer, " layers; ", info_.backend);
  info_.n_layer = params.n_layer;
  info_.n_head = params.n_head;
  info_.n_head_kv = params.n_head_kv;
  info_.head_dim = params.head_dim;
  info_.n_embd = params.n_embd;
  info_.n_vocab = params.n_vocab;
  info_.n_ctx_train = params.n_ctx_train;
  info_.sliding_window = params.sliding_window;
  info_.bytes = text_file_->file_bytes() + (mmproj_file_ ? mmproj_file_->file_bytes() : 0);
  info_.warnings = text_file_->warnings();
  if (mmproj_file_) {
    const auto& more = mmproj_file_->warnings();
    info_.warnings.insert(info_.warnings.end(), more.begin(), more.end());
    info_.vision = VisionInfo{vision_->projector(), vision_->row_width(), vision_->describe};
  }
  const std::string* text = text_file_->find_string("tokenizer.chat_template");
  try {
    const ChatTemplate t = detect_chat_template(*text_file_, vision_ ? vision_->projector() : "");
    if (const std::string doubts = text ? chat_template_doubts(*text, t) : ""; !doubts.empty())
      info_.warnings.push_back(cat(text_file_->path(), ": chat template: taken for '",
                                   chat_template_names()[static_cast<size_t>(t)], "', which leaves out ", doubts,
                                   "; --chat-template jinja of the Python package renders the file's own"));
  } catch (const Error&) {  // of no known family: said when a chat begins
  }
}

void ModelImpl::load_layers(const Placement& placement, const ModelOptions& o) {
  const auto report = [&](const char* what, float share) {
    if (o.progress) o.progress(what, share);
  };
  report("loading the text model", 0.2f);
  const int n = read_text_params(*text_file_).n_layer, split = n - placement.gpu_layers;
  info_.placement = placement.note;
  text_ = load_text_model(text_file_, *backend_, {0, split, true, placement.gpu_layers == 0});
  places_.push_back({backend_.get(), text_.get(), 0, split});
  if (gpu_) report("loading onto the GPU", 0.6f);
  if (placement.gpu_layers > 0) {
    gpu_text_ = load_text_model(text_file_, *gpu_, {split, n, false, true});
    places_.push_back({gpu_.get(), gpu_text_.get(), split, n});
  }
  if (placement.stream_slot > 0) {
    stream_ = gpu_->make_weight_stream(placement.stream_slot);
    streamed_text_ = load_text_model(text_file_, *gpu_, {0, split, false, false, stream_.get()});
    stream_rows_ = 1;
    std::string from = "every prompt";
    if (o.stream_prefill == "auto") {
      const StreamTimes times = measure_streaming(*text_, *backend_, *stream_, *gpu_);
      stream_rows_ = rows_to_stream(times);
      from =
          cat("prompts of ", stream_rows_, " rows or more (a layer passes in ", std::round(times.layer_ms * 100) / 100,
              " ms, the CPU takes ", std::round(times.row_ms * 1000) / 1000, " ms a row)");
    }
    info_.placement += cat("; the other ", split, " on the CPU, and on the GPU in ", from);
  }
  report("loading the text model", 1.0f);
}

std::vector<Place> ModelImpl::prefill_places(int64_t rows) const {
  if (!stream_ || rows < stream_rows_) return places_;
  std::vector<Place> out = {{backend_.get(), text_.get(), 0, 0},
                            {gpu_.get(), streamed_text_.get(), 0, places_.front().stop, stream_.get()}};
  if (gpu_text_) out.push_back(places_.back());
  return out;
}

std::vector<Backend*> ModelImpl::layer_backends() const {
  std::vector<Backend*> out;
  for (const Place& place : places_)
    out.insert(out.end(), static_cast<size_t>(place.stop - place.first), place.backend);
  return out;
}

std::vector<std::string> list_devices() {
  const GpuDevices devices = cuda_devices();
  std::vector<std::string> out;
  for (const GpuDevice& d : devices.found)
    out.push_back(cat("cuda:", d.index, "  ", d.name, ", compute capability ", d.capability, ", ", d.free >> 20, " of ",
                      d.total >> 20, " MiB free"));
  if (out.empty()) out.push_back(cat("no GPU: ", devices.none_because));
  out.push_back(cat("cpu     ", make_cpu_backend(0)->name()));
  return out;
}

void ModelImpl::check_process() const {
  if (getpid() != process_)
    fail(ErrorCode::state,
         "the model was opened before fork(): its worker threads don't exist in this process; open it "
         "anew here");
}

const VisionEncoder& ModelImpl::need_vision() const {
  if (!vision_)
    fail(ErrorCode::invalid_argument, "the model was loaded without an mmproj file, so it can't see pictures");
  return *vision_;
}

ImagePlan ModelImpl::plan_image(int width, int height) const {
  return need_vision().plan(width, height);
}

std::vector<Tile> ModelImpl::preprocess(ImageView image) const {
  const auto& v = need_vision();
  check_image_size(image.width, image.height);
  return v.preprocess(image, v.plan(image.width, image.height));
}

Matrix ModelImpl::encode(const std::vector<Tile>& tiles, const ImagePlan& plan, const CancelFlag* cancel) const {
  if (vision_room_.weights > 0) {
    const auto need = static_cast<uint64_t>(plan.scratch_bytes);
    const uint64_t free = gpu_->free_bytes();
    if (need > free)
      fail(ErrorCode::out_of_memory, "a picture of ", plan.width, "x", plan.height, " pixels (", plan.n_rows,
           " rows) needs ", (need + (1 << 20) - 1) >> 20, " MiB on ", gpu_->name(), ", found ", free >> 20,
           " MiB free; a smaller picture or image_max_tokens, or mmproj_offload False would fit");
  }
  return need_vision().encode(tiles, plan, cancel);
}

ImageEmbedding ModelImpl::encode_image(ImageView image, const CancelFlag* cancel, const Progress& progress) const {
  check_process();
  const auto& v = need_vision();
  check_image_size(image.width, image.height);
  ImageEmbedding out;
  out.plan = v.plan(image.width, image.height);
  if (progress) progress("encoding the picture", 0.0f);
  const std::vector<Tile> tiles = v.preprocess(image, out.plan);
  const std::lock_guard lock(compute_);
  out.rows = encode(tiles, out.plan, cancel);
  if (progress) progress("encoding the picture", 1.0f);
  return out;
}

ChatTemplate ModelImpl::chat_template() const {
  const std::lock_guard lock(template_mutex_);
  if (!template_) template_ = detect_chat_template(*text_file_, vision_ ? vision_->projector() : "");
  return *template_;
}

void ModelImpl::set_chat_template(const std::string& name) const {
  const ChatTemplate t = chat_template_from_name(name);
  const std::lock_guard lock(template_mutex_);
  template_ = t;
}

std::string ModelImpl::apply_template(const std::vector<Message>& messages) const {
  std::string out;
  for (const PromptPiece& p : render_chat(chat_template(), messages))
    out += p.kind == PromptPiece::image ? "<__media__>" : p.value;
  return out;
}

std::unique_ptr<Session> ModelImpl::session(const KvOptions& kv, int64_t n_ctx) const {
  check_process();
  check_kv_options(kv);
  if (kv.on_full == OnFull::evict && kv.budget.kind == Budget::everything)
    fail(ErrorCode::invalid_argument, "on_full 'evict' needs a kv budget: found none");
  if (n_ctx == 0) n_ctx = std::min<int64_t>(8192, text_->params().n_ctx_train);
  if (n_ctx < 1 || n_ctx > int64_t{1} << 24)
    fail(ErrorCode::invalid_argument, "n_ctx: found ", n_ctx, ", expected 1 to ", int64_t{1} << 24);
  auto self = std::static_pointer_cast<const ModelImpl>(shared_from_this());
  return std::make_unique<SessionImpl>(std::move(self), kv, n_ctx);
}

std::unique_ptr<Session> ModelImpl::load_session(const std::string& path) const {
  check_process();
  return SessionImpl::load(std::static_pointer_cast<const ModelImpl>(shared_from_this()), path);
}

}  // namespace foveal
