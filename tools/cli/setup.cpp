// What the commands share.
#include "tools/cli/setup.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace foveal::cli {
namespace {

constexpr size_t max_prompt = size_t{64} << 20;

std::string number(double x, int decimals = 1) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, x);
  return text;
}

std::string speed(int64_t tokens, double ms) {
  return ms > 0 ? cat(tokens, " tokens, ", number(1000.0 * static_cast<double>(tokens) / ms), " tokens/s")
                : cat(tokens, " tokens");
}

}  // namespace

std::string bytes_text(uint64_t bytes) {
  const auto b = static_cast<double>(bytes);
  if (bytes >= (uint64_t{1} << 30)) return number(b / (1 << 30), 2) + " GiB";
  if (bytes >= (uint64_t{1} << 20)) return number(b / (1 << 20)) + " MiB";
  return number(b / 1024) + " KiB";
}

std::shared_ptr<const Model> load_model(const Options& o) {
  ModelOptions m;
  m.mmproj = o.mmproj;
  m.device = o.device;
  m.gpu_layers = o.gpu_layers;
  m.stream_prefill = o.stream_prefill;
  m.mmproj_offload = o.mmproj_offload;
  m.threads = o.threads;
  m.image_min_tokens = o.image_min_tokens;
  m.image_max_tokens = o.image_max_tokens;
  m.vision_precision = o.vision_precision;
  ProgressLine line;
  m.progress = line.callback();
  std::shared_ptr<const Model> model = Model::load(o.model, m);
  line.erase();
  if (!model->info().placement.empty()) write_note(model->info().placement);
  for (const std::string& warning : model->info().warnings)
    if (o.chat_template.empty() || warning.find(": chat template:") == warning.npos) write_note("warning: " + warning);
  if (!o.chat_template.empty()) model->set_chat_template(o.chat_template);
  return model;
}

std::unique_ptr<Session> make_session(const Model& model, const Options& o) {
  struct stat ignored;
  if (o.session_file.empty() || (::stat(o.session_file.c_str(), &ignored) != 0 && errno == ENOENT))
    return model.session(o.kv, o.n_ctx);
  std::unique_ptr<Session> session = model.load_session(o.session_file);
  write_note(cat(o.session_file, ": ", session->tokens().size(), " tokens, kv budget ",
                 budget_text(session->kv_options().budget), " and context ", session->n_ctx(), " as saved"));
  if (!o.system.empty() && !session->tokens().empty())
    write_note("note: --system-prompt is left out, the conversation has begun already");
  return session;
}

bool note_past_training(const Session& session, const Model& model) {
  const int trained = model.info().n_ctx_train;
  if (trained <= 0 || session.pos() <= trained) return false;
  write_note(cat("warning: the session has passed the ", trained, " positions that its model was trained for"));
  return true;
}

void save_session(const Session& session, const Options& o) {
  if (!o.session_file.empty()) session.save(o.session_file);
}

std::string read_text_file(const std::string& path) {
  std::FILE* file = path == "-" ? stdin : std::fopen(path.c_str(), "rb");
  if (!file) fail(ErrorCode::io, path, ": ", std::strerror(errno));
  std::string text;
  char chunk[65536];
  size_t n = 0;
  while (text.size() <= max_prompt && (n = std::fread(chunk, 1, sizeof chunk, file)) > 0) text.append(chunk, n);
  const bool failed = std::ferror(file) != 0;
  const int error = errno;
  if (file != stdin) std::fclose(file);
  if (failed) fail(ErrorCode::io, path, ": ", std::strerror(error));
  if (text.size() > max_prompt) fail(ErrorCode::invalid_argument, path, ": more than 64 MiB of prompt");
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

void stream_reply(Session& session) {
  std::string piece;
  bool ended_line = true;
  while (session.next(piece)) {
    if (piece.empty()) continue;
    write_out(piece);
    ended_line = piece.back() == '\n';
  }
  if (!ended_line) write_out("\n");
}

std::string describe_turn(const TurnStats& s) {
  std::string text;
  if (s.image_tokens > 0) {
    text += cat("pictures  ", number(s.ms.image_encode), " ms, ", s.image_tokens, " rows\n");
  }
  text += cat("prefill   ", number(s.ms.prefill), " ms, ", speed(s.prompt_tokens - s.cached_tokens, s.ms.prefill));
  if (s.cached_tokens > 0) text += cat(", ", s.cached_tokens, " reused");
  text += cat("\neviction  ", number(s.ms.evict), " ms, ", s.kv.evictions, " times\n");
  text += cat("decode    ", number(s.ms.decode), " ms, ", speed(s.completion_tokens, s.ms.decode), ", ended by ",
              s.finish_reason, "\n");
  text += cat("KV        ", bytes_text(s.kv.bytes), " held, ", bytes_text(s.kv.bytes_without_eviction),
              " without eviction, peak ", bytes_text(s.kv.bytes_peak), "; rows per head ", s.kv.rows_min, " to ",
              s.kv.rows_max, ", mean ", number(s.kv.rows_mean), "\n");
  text += cat("seed      ", s.seed);
  return text;
}

}  // namespace foveal::cli
