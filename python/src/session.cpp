// Session: rows in, logits out, one turn of a chat. One thread at a time: a second one gets a state error.
#include <atomic>

#include "model.h"

namespace foveal::python {
namespace {

class PySession : public Owned<std::unique_ptr<Session>> {
 public:
  PySession(std::unique_ptr<Session> session, std::shared_ptr<ProgressState> progress)
      : Owned(std::move(session)), progress_(std::move(progress)) {
    get("session").set_progress([this](const char* what, float share) {
      progress_->set(what, share);
      if (signals_.interrupted()) get("session").cancel();
    });
  }
  // Claims the session for this call.
  class Use {
   public:
    Use(PySession& s, const char* what) : s_(s), session_(s.get(what)) {
      if (s.busy_.exchange(true)) {
        fail(ErrorCode::state, what,
             ": the session is busy in another thread; one session serves one thread at a time");
      }
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    ~Use() { s_.busy_ = false; }
    Session* operator->() const { return &session_; }
    Session& operator*() const { return session_; }

   private:
    PySession& s_;
    Session& session_;
  };
  // A long call: no GIL, Ctrl-C cancels it.
  template <class F>
  auto run(const char* what, F&& f) -> decltype(f(std::declval<Session&>())) {
    const Use session(*this, what);
    if constexpr (std::is_void_v<decltype(f(*session))>) {
      without_gil([&] { f(*session); });
      if (PyErr_Occurred()) throw nb::python_error();
    } else {
      auto result = without_gil([&] { return f(*session); });
      if (PyErr_Occurred()) throw nb::python_error();
      return result;
    }
  }
  std::unique_ptr<PySession> replay(const KvOptions& kv) {
    auto copy = run("session.replay", [&](Session& s) { return s.replay(kv); });
    return std::make_unique<PySession>(std::move(copy), progress_);
  }
  std::unique_ptr<PySession> fork(const KvOptions* evict) {
    auto copy = run("session.fork", [&](Session& s) { return s.fork(evict); });
    return std::make_unique<PySession>(std::move(copy), progress_);
  }
  void close_unless_busy() {
    if (busy_.exchange(true)) fail(ErrorCode::state, "session.close: the session is busy in another thread");
    close();
    busy_ = false;
  }

 private:
  std::shared_ptr<ProgressState> progress_;
  SignalCheck signals_;
  std::atomic<bool> busy_{false};
};

// Parts of a prompt: list of ids | (text bytes, special) | pixels. The list keeps the pixels alive during the call.
std::vector<Part> to_parts(const nb::list& parts) {
  std::vector<Part> out;
  for (const nb::handle part : parts) {
    if (nb::isinstance<nb::tuple>(part)) {
      const auto text = nb::borrow<nb::tuple>(part);
      out.push_back(TextPiece{from_bytes(nb::cast<nb::bytes>(text[0])), nb::cast<bool>(text[1])});
    } else if (nb::isinstance<nb::list>(part)) {
      out.push_back(nb::cast<std::vector<int32_t>>(part));
    } else {
      out.push_back(image_view(nb::cast<Pixels>(part)));
    }
  }
  return out;
}

GenerateOptions to_options(const nb::dict& d) {
  GenerateOptions o;
  o.max_tokens = nb::cast<int64_t>(d["max_tokens"]);
  o.sample.temperature = nb::cast<float>(d["temperature"]);
  o.sample.top_k = nb::cast<int>(d["top_k"]);
  o.sample.top_p = nb::cast<float>(d["top_p"]);
  o.sample.min_p = nb::cast<float>(d["min_p"]);
  o.sample.repeat_penalty = nb::cast<float>(d["repeat_penalty"]);
  o.sample.repeat_last_n = nb::cast<int>(d["repeat_last_n"]);
  o.sample.seed = nb::cast<std::optional<uint64_t>>(d["seed"]);
  o.ignore_eos = nb::cast<bool>(d["ignore_eos"]);
  for (const nb::handle s : nb::cast<nb::list>(d["stop"])) o.stop.push_back(from_bytes(nb::cast<nb::bytes>(s)));
  return o;
}

void start_chat(PySession& s, const std::vector<PyMessage>& messages, const nb::list& images, const nb::dict& options) {
  std::vector<ImageView> views;
  for (const nb::handle image : images) views.push_back(image_view(nb::cast<Pixels>(image)));
  const std::vector<Message> native = to_messages(messages);
  const GenerateOptions o = to_options(options);
  s.run("session.chat", [&](Session& session) { session.start_chat(native, views, o); });
}

void start_next(PySession& s, const PyMessage& message, const nb::list& images, const nb::dict& options) {
  std::vector<ImageView> views;
  for (const nb::handle image : images) views.push_back(image_view(nb::cast<Pixels>(image)));
  const std::vector<Message> native = to_messages({message});
  const GenerateOptions o = to_options(options);
  s.run("session.chat", [&](Session& session) { session.start_next(native[0], views, o); });
}

void start(PySession& s, const nb::list& parts, const nb::dict& options) {
  const std::vector<Part> native = to_parts(parts);
  const GenerateOptions o = to_options(options);
  s.run("session.chat", [&](Session& session) { session.start(native, o); });
}

void start_prompt(PySession& s, const nb::list& parts, const nb::dict& options) {
  const std::vector<Part> native = to_parts(parts);
  const GenerateOptions o = to_options(options);
  s.run("session.chat", [&](Session& session) { session.start_prompt(native, o); });
}

std::optional<nb::bytes> next(PySession& s) {
  std::string piece;
  const bool more = s.run("session.chat", [&](Session& session) { return session.next(piece); });
  if (!more) return std::nullopt;
  return to_bytes(piece);
}

nb::dict turn_stats(const TurnStats& t) {
  nb::dict ms, d;
  ms["image_encode"] = t.ms.image_encode;
  ms["prefill"] = t.ms.prefill;
  ms["evict"] = t.ms.evict;
  ms["decode"] = t.ms.decode;
  d["prompt_tokens"] = t.prompt_tokens;
  d["image_tokens"] = t.image_tokens;
  d["cached_tokens"] = t.cached_tokens;
  d["completion_tokens"] = t.completion_tokens;
  d["finish_reason"] = t.finish_reason;
  d["started_over"] = t.started_over;
  d["note"] = to_bytes(t.note);
  d["seed"] = t.seed;
  d["ms"] = ms;
  d["kv"] = kv_stats(t.kv);
  return d;
}

nb::list kept(PySession& s, int il) {
  const PySession::Use session(s, "session.kept");
  nb::list out;
  for (const auto& head : session->kept(il)) out.append(nb::cast(to_numpy(head)));
  return out;
}

nb::tuple kv_arrays(PySession& s, int il) {
  auto [k, v] = s.run("session.kv_arrays", [&](Session& session) { return session.kv_arrays(il); });
  nb::list ks, vs;
  for (Matrix& m : k) ks.append(nb::cast(to_numpy(std::move(m))));
  for (Matrix& m : v) vs.append(nb::cast(to_numpy(std::move(m))));
  return nb::make_tuple(ks, vs);
}

nb::list attention(PySession& s, int il, int64_t queries) {
  auto heads = s.run("session.attention", [&](Session& session) { return session.attention(il, queries); });
  nb::list out;
  for (Matrix& m : heads) out.append(nb::cast(to_numpy(std::move(m))));
  return out;
}

// Pictures seen: (row indices in the session, regions [n_rows, 4] in original pixels, width, height).
nb::list images(PySession& s) {
  const PySession::Use session(s, "session.images");
  nb::list out;
  for (const SessionImage& image : session->image_rows()) {
    Matrix boxes(static_cast<int64_t>(image.rows.size()), 4);
    for (size_t i = 0; i < image.rows.size(); ++i) {
      const Box& b = image.plan->boxes[i];
      float* to = boxes.view().row(static_cast<int64_t>(i));
      to[0] = b.x0, to[1] = b.y0, to[2] = b.x1, to[3] = b.y1;
    }
    nb::dict d;
    d["rows"] = nb::cast(to_numpy(image.rows));
    d["boxes"] = nb::cast(to_numpy(std::move(boxes)));
    d["size"] = nb::make_tuple(image.plan->width, image.plan->height);
    d["resized"] = nb::make_tuple(image.plan->resized_width, image.plan->resized_height);
    out.append(d);
  }
  return out;
}

FloatRow logits(PySession& s) {
  const PySession::Use session(s, "session.logits");
  const std::span<const float> values = session->logits();
  return to_numpy(values.data(), values.size());
}

// Plain numbers of the session.
template <class F>
auto read(const char* what, F f) {
  return [what, f](PySession& s) {
    const PySession::Use session(s, what);
    return f(*session);
  };
}

}  // namespace

void bind_session(nb::module_& m) {
  nb::class_<PySession>(m, "Session", "One conversation: tokens seen and their KV rows.")
      .def(nb::new_([](const PyModel& model, const KvOptions& kv, int64_t n_ctx, std::shared_ptr<ProgressState> p) {
             const Model& native = model.get("model.session");
             return std::make_unique<PySession>(without_gil([&] { return native.session(kv, n_ctx); }), std::move(p));
           }),
           nb::arg("model"), nb::arg("kv"), nb::arg("n_ctx"), nb::arg("progress"))
      .def_static(
          "load",
          [](const PyModel& model, const nb::bytes& path, std::shared_ptr<ProgressState> p) {
            const Model& native = model.get("model.load_session");
            const std::string name = from_bytes(path);
            return std::make_unique<PySession>(without_gil([&] { return native.load_session(name); }), std::move(p));
          },
          nb::arg("model"), nb::arg("path"), nb::arg("progress"))
      .def("prefill",
           [](PySession& s, const nb::list& parts) {
             const std::vector<Part> native = to_parts(parts);
             s.run("session.prefill", [&](Session& session) { session.prefill(native); });
           })
      .def("step", [](PySession& s, int32_t token) { s.run("session.step", [&](Session& n) { n.step(token); }); })
      .def("logits", &logits)
      .def("tokens", read("session.tokens", [](Session& s) { return s.tokens(); }))
      .def("pos", read("session.pos", [](Session& s) { return s.pos(); }))
      .def("n_tokens", read("session.n_tokens", [](Session& s) { return s.tokens().size(); }))
      .def("n_ctx", read("session.n_ctx", [](Session& s) { return s.n_ctx(); }))
      .def("kv_bytes", read("session.kv_bytes", [](Session& s) { return s.kv_bytes(); }))
      .def("kv_peak_bytes", read("session.kv_peak_bytes", [](Session& s) { return s.kv_peak_bytes(); }))
      .def("kept", &kept, nb::arg("il"))
      .def("kv_arrays", &kv_arrays, nb::arg("il"))
      .def("attention", &attention, nb::arg("il"), nb::arg("queries"))
      .def("evict",
           [](PySession& s, const KvOptions& kv) {
             return kv_stats(s.run("session.evict", [&](Session& session) { return session.evict(kv); }));
           })
      .def("pin",
           [](PySession& s, int64_t start, int64_t stop) {
             const PySession::Use session(s, "session.pin");
             session->pin(start, stop);
           })
      .def("fork", &PySession::fork, nb::arg("evict").none())
      .def("replay", &PySession::replay, nb::arg("kv"))
      .def("undo",
           [](PySession& s) {
             const UndoResult r = s.run("session.undo", [](Session& session) { return session.undo(); });
             nb::dict d;
             d["replayed"] = r.replayed;
             d["rows"] = r.rows;
             d["note"] = to_bytes(r.note);
             return d;
           })
      .def("refresh",
           [](PySession& s, int index) { s.run("session.refresh", [&](Session& session) { session.refresh(index); }); })
      .def("save",
           [](PySession& s, const nb::bytes& path) {
             const std::string name = from_bytes(path);
             s.run("session.save", [&](Session& session) { session.save(name); });
           })
      .def("images", &images)
      .def("is_chat", read("session.is_chat", [](Session& s) { return s.is_chat(); }))
      .def("kv_stats", read("session.kv_stats", [](Session& s) { return kv_stats(s.kv_stats()); }))
      .def("kv_options", read("session.kv", [](Session& s) { return kv_options(s.kv_options()); }))
      .def("start_next", &start_next, nb::arg("message"), nb::arg("images"), nb::arg("options"))
      .def("start_chat", &start_chat, nb::arg("messages"), nb::arg("images"), nb::arg("options"))
      .def("start", &start, nb::arg("parts"), nb::arg("options"))
      .def("start_prompt", &start_prompt, nb::arg("parts"), nb::arg("options"))
      .def("next", &next, "The next piece of text as UTF-8; None when the reply is complete")
      .def("reply_tokens", read("reply.tokens", [](Session& s) { return s.reply_tokens(); }))
      .def("stats", read("reply.stats", [](Session& s) { return turn_stats(s.stats()); }))
      .def(
          "cancel", [](PySession& s) { s.get("session.cancel").cancel(); }, "From any thread")
      .def(
          "stop",
          [](PySession& s) {
            s.run("session.chat", [](Session& session) {
              session.cancel();
              for (std::string piece; session.next(piece);) {
              }
            });
          },
          "Ends a reply that nobody reads on")
      .def("set_chunk_rows",
           [](PySession& s, int64_t n) {
             const PySession::Use session(s, "session.set_chunk_rows");
             session->set_chunk_rows(n);
           })
      .def("close", &PySession::close_unless_busy);
}

}  // namespace foveal::python
