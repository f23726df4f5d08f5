// Model: load, describe, encode pictures.
#include "model.h"

namespace foveal::python {
namespace {

std::unique_ptr<PyModel> load(const nb::bytes& path, const nb::bytes& mmproj, const std::string& device, int gpu_layers,
                              const std::string& stream_prefill, int threads, int image_min_tokens,
                              int image_max_tokens, const std::string& vision_precision, bool mmproj_offload,
                              ProgressState& progress) {
  ModelOptions o;
  o.mmproj = from_bytes(mmproj);
  o.device = device;
  o.gpu_layers = gpu_layers;
  o.stream_prefill = stream_prefill;
  o.threads = threads;
  o.image_min_tokens = image_min_tokens;
  o.image_max_tokens = image_max_tokens;
  o.vision_precision = vision_precision;
  o.mmproj_offload = mmproj_offload;
  SignalCheck signals;
  o.progress = [&](const char* what, float share) {
    progress.set(what, share);
    if (signals.interrupted()) throw Interrupted();
  };
  const std::string name = from_bytes(path);
  return without_gil([&] { return std::make_unique<PyModel>(Model::load(name, o)); });
}

nb::dict info(const PyModel& model) {
  const ModelInfo& i = model.get("model.info").info();
  nb::dict d;
  d["arch"] = i.arch;
  d["name"] = to_bytes(i.name);
  d["n_layer"] = i.n_layer;
  d["n_head"] = i.n_head;
  d["n_head_kv"] = i.n_head_kv;
  d["head_dim"] = i.head_dim;
  d["n_embd"] = i.n_embd;
  d["n_vocab"] = i.n_vocab;
  d["n_ctx_train"] = i.n_ctx_train;
  d["file_type"] = i.file_type;
  d["sliding_window"] = i.sliding_window;
  d["bytes"] = i.bytes;
  d["backend"] = i.backend;
  d["placement"] = i.placement;
  d["warnings"] = i.warnings;
  d["vision"] = nb::none();
  if (i.vision) {
    nb::dict v;
    v["projector"] = i.vision->projector;
    for (const auto& [key, value] : i.vision->details) v[key.c_str()] = value;
    d["vision"] = v;
  }
  return d;
}

FloatRows encode_image(const PyModel& model, const Pixels& pixels) {
  const Model& m = model.get("model.encode_image");
  const ImageView view = image_view(pixels);
  CancelFlag cancel{false};
  SignalCheck signals;
  const Progress progress = [&](const char*, float) {
    if (signals.interrupted()) cancel = true;
  };
  ImageEmbedding rows = without_gil([&] { return m.encode_image(view, &cancel, progress); });
  if (PyErr_Occurred()) throw nb::python_error();
  return to_numpy(std::move(rows.rows));
}

nb::list preprocess(const PyModel& model, const Pixels& pixels) {
  const Model& m = model.get("model.preprocess");
  const ImageView view = image_view(pixels);
  const std::vector<Tile> tiles = without_gil([&] { return m.preprocess(view); });
  nb::list out;
  for (const Tile& t : tiles) {
    auto* copy = new std::vector<float>(t.pixels);
    const nb::capsule capsule(copy, [](void* p) noexcept { delete static_cast<std::vector<float>*>(p); });
    const size_t shape[3] = {3, static_cast<size_t>(t.height), static_cast<size_t>(t.width)};
    out.append(nb::cast(nb::ndarray<nb::numpy, float>(copy->data(), 3, shape, capsule)));
  }
  return out;
}

nb::dict plan_image(const PyModel& model, int width, int height) {
  const ImagePlan p = model.get("model.plan_image").plan_image(width, height);
  nb::dict d;
  d["n_rows"] = p.n_rows;
  d["n_tiles"] = p.n_tiles;
  d["resized"] = nb::make_tuple(p.resized_width, p.resized_height);
  d["grid"] = nb::make_tuple(p.grid_rows, p.grid_cols);
  d["scratch_bytes"] = p.scratch_bytes;
  nb::list wrapping;
  for (const ImagePiece& piece : p.pieces) {
    if (piece.n_rows == 0) wrapping.append(to_bytes(piece.text));
  }
  d["wrapping"] = wrapping;
  return d;
}

nb::dict plan(const nb::bytes& model, const nb::bytes& mmproj, const std::vector<std::tuple<int, int, int>>& images,
              int64_t turns, int64_t text_tokens, int64_t reply_tokens, int image_min_tokens, int image_max_tokens,
              const KvOptions& kv, uint64_t memory) {
  PlanQuery q;
  q.model = from_bytes(model);
  q.mmproj = from_bytes(mmproj);
  for (const auto& [width, height, count] : images) q.images.push_back({width, height, count});
  q.turns = turns;
  q.text_tokens = text_tokens;
  q.reply_tokens = reply_tokens;
  q.image_min_tokens = image_min_tokens;
  q.image_max_tokens = image_max_tokens;
  q.kv = kv;
  q.memory = memory;
  const MemoryPlan p = without_gil([&] { return plan_memory(q); });
  nb::list per_turn;
  for (const PlanTurn& t : p.turns) {
    nb::dict d;
    d["image_rows"] = t.image_rows;
    d["rows"] = t.rows;
    d["kv_bytes"] = t.kv_bytes;
    d["kv_bytes_full"] = t.kv_bytes_full;
    d["prefill_peak"] = t.prefill_peak;
    per_turn.append(d);
  }
  nb::dict d;
  d["rows_per_image"] = p.rows_per_image;
  d["turns"] = per_turn;
  d["text_weights"] = p.text_weights;
  d["vision_weights"] = p.vision_weights;
  d["encoder_scratch"] = p.encoder_scratch;
  d["prefill_scratch"] = p.prefill_scratch;
  d["embedding_cache"] = p.embedding_cache;
  d["fixed"] = p.fixed;
  d["total"] = p.total;
  d["memory"] = p.memory;
  d["fits"] = p.fits;
  d["advice"] = to_bytes(p.advice);
  return d;
}

}  // namespace

std::vector<Message> to_messages(const std::vector<PyMessage>& messages) {
  std::vector<Message> out;
  for (const auto& [role, parts] : messages) {
    Message message{role, {}};
    for (const nb::handle part : parts) {
      ContentPart p;
      if (nb::isinstance<nb::bytes>(part)) {
        p.value = from_bytes(nb::borrow<nb::bytes>(part));
      } else {
        p.kind = ContentPart::image;
        p.image_index = nb::cast<int>(part);
      }
      message.content.push_back(std::move(p));
    }
    out.push_back(std::move(message));
  }
  return out;
}

void bind_model(nb::module_& m) {
  nb::class_<PyModel>(m, "Model", "A loaded model; immutable, shared by its sessions.")
      .def_static("load", &load, nb::arg("path"), nb::arg("mmproj"), nb::arg("device"), nb::arg("gpu_layers"),
                  nb::arg("stream_prefill"), nb::arg("threads"), nb::arg("image_min_tokens"),
                  nb::arg("image_max_tokens"), nb::arg("vision_precision"), nb::arg("mmproj_offload"),
                  nb::arg("progress"))
      .def("info", &info)
      .def("tokenizer",
           [](const PyModel& p) { return std::const_pointer_cast<Tokenizer>(p.get("model.tokenizer").tokenizer()); })
      .def("encode_image", &encode_image, nb::arg("pixels"), "float32 [n_rows, row_width], deepstack levels included")
      .def("preprocess", &preprocess, nb::arg("pixels"), "float32 [3, height, width] of every tile")
      .def("plan_image", &plan_image, nb::arg("width"), nb::arg("height"))
      .def("template_text", [](const PyModel& p) { return to_bytes(p.get("model.template_text").template_text()); })
      .def("set_chat_template",
           [](const PyModel& p, const std::string& name) { p.get("chat_template").set_chat_template(name); })
      .def("apply_template",
           [](const PyModel& p, const std::vector<PyMessage>& messages) {
             return to_bytes(p.get("model.apply_template").apply_template(to_messages(messages)));
           })
      .def("close", &PyModel::close);
  m.def("chat_template_names", &chat_template_names);
  m.def("plan", &plan, nb::arg("model"), nb::arg("mmproj"), nb::arg("images"), nb::arg("turns"), nb::arg("text_tokens"),
        nb::arg("reply_tokens"), nb::arg("image_min_tokens"), nb::arg("image_max_tokens"), nb::arg("kv"),
        nb::arg("memory"));
  m.def(
      "describe_file",
      [](const nb::bytes& path) {
        const std::string name = from_bytes(path);
        const FileDescription f = without_gil([&] { return describe_file(name); });
        nb::list metadata, tensors;
        for (const auto& [key, value] : f.metadata) metadata.append(nb::make_tuple(to_bytes(key), to_bytes(value)));
        for (const auto& t : f.tensors) tensors.append(nb::make_tuple(to_bytes(t.name), t.type, t.shape, t.bytes));
        nb::dict d;
        d["path"] = to_bytes(f.path);
        d["version"] = f.version;
        d["bytes"] = f.bytes;
        d["metadata"] = metadata;
        d["tensors"] = tensors;
        d["warnings"] = f.warnings;
        return d;
      },
      nb::arg("path"));
}

}  // namespace foveal::python
