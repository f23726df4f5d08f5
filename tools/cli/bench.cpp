// foveal bench: prefill and decode speed at given depths, a row a test as llama-bench prints it.
#include <chrono>
#include <cmath>
#include <cstdio>

#include "tools/cli/commands.h"
#include "tools/cli/setup.h"

namespace foveal::cli {
namespace {

struct Test {
  int prompt = 0, generate = 0, depth = 0;
  std::string name() const {
    const std::string base = prompt > 0 ? cat("pp", prompt) : cat("tg", generate);
    return depth > 0 ? cat(base, " @ d", depth) : base;
  }
};

struct Result {
  Test test;
  std::vector<double> speeds;  // tokens/s, one per repetition
  size_t kv_bytes = 0, kv_peak_bytes = 0;

  double mean() const {
    double sum = 0;
    for (const double s : speeds) sum += s;
    return sum / static_cast<double>(speeds.size());
  }
  double deviation() const {
    if (speeds.size() < 2) return 0;
    double sum = 0;
    for (const double s : speeds) sum += (s - mean()) * (s - mean());
    return std::sqrt(sum / static_cast<double>(speeds.size() - 1));
  }
};

// Token ids that look like text to nobody, the same in every run.
std::vector<int32_t> token_row(int n, int n_vocab, uint32_t seed) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  uint32_t state = seed * 2654435761u + 1;
  for (int32_t& id : ids) {
    state = state * 1664525u + 1013904223u;
    id = static_cast<int32_t>((state >> 8) % static_cast<uint32_t>(n_vocab));
  }
  return ids;
}

void prefill(Session& session, std::vector<int32_t> ids) {
  const Part part = std::move(ids);
  session.prefill(std::span<const Part>(&part, 1));
}

double timed_run(Session& session, const Test& t, int n_vocab) {
  const auto start = std::chrono::steady_clock::now();
  if (t.prompt > 0) {
    prefill(session, token_row(t.prompt, n_vocab, 2));
  } else {
    for (const int32_t id : token_row(t.generate, n_vocab, 3)) session.step(id);
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return (t.prompt > 0 ? t.prompt : t.generate) / seconds;
}

// The first products read the weights from the file, the second ones pack them: neither is what is measured here.
void pack_weights(const Model& model) {
  const std::unique_ptr<Session> session = model.session({}, 2);
  prefill(*session, {0});
  session->step(0);
}

Result measure(const Model& model, const Options& o, const Test& t) {
  const int n_vocab = model.info().n_vocab;
  const int64_t n_ctx = int64_t{t.depth} + t.prompt + t.generate + 1;
  Result result{t, {}, 0, 0};
  for (int i = 0; i <= o.bench_repetitions; ++i) {  // the first one warms up
    const std::unique_ptr<Session> session = model.session(o.kv, n_ctx);
    // A decode test starts from at least one row, a prefill test from none.
    if (t.depth > 0 || t.generate > 0) prefill(*session, token_row(std::max(1, t.depth), n_vocab, 1));
    const double speed = timed_run(*session, t, n_vocab);
    if (i > 0) result.speeds.push_back(speed);
    result.kv_bytes = session->kv_bytes();
    result.kv_peak_bytes = session->kv_peak_bytes();
  }
  return result;
}

std::string json_string(const std::string& s) {
  std::string out = "\"";
  for (const char c : s) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) >= 0x20) out += c;
  }
  return out + "\"";
}

std::string json_row(const Result& r, const ModelInfo& info) {
  std::string speeds;
  for (const double s : r.speeds) speeds += cat(speeds.empty() ? "" : ", ", s);
  return cat("{\"model\": ", json_string(info.arch + " " + info.file_type), ", \"bytes\": ", info.bytes,
             ", \"backend\": ", json_string(info.backend), ", \"test\": ", json_string(r.test.name()),
             ", \"n_prompt\": ", r.test.prompt, ", \"n_gen\": ", r.test.generate, ", \"n_depth\": ", r.test.depth,
             ", \"avg_ts\": ", r.mean(), ", \"stddev_ts\": ", r.deviation(), ", \"samples_ts\": [", speeds,
             "], \"kv_bytes\": ", r.kv_bytes, ", \"kv_peak_bytes\": ", r.kv_peak_bytes, "}");
}

std::string markdown_row(const Result& r, const ModelInfo& info) {
  char speed[64];
  std::snprintf(speed, sizeof speed, "%.2f ± %.2f", r.mean(), r.deviation());
  return cat("| ", info.arch, " ", info.file_type, " | ", bytes_text(info.bytes), " | ", info.backend, " | ",
             bytes_text(r.kv_bytes), " | ", r.test.name(), " | ", speed, " |\n");
}

}  // namespace

int bench(const Options& o) {
  const std::shared_ptr<const Model> model = load_model(o);
  const bool json = o.bench_output == "json";
  write_out(json ? "[" : "| model | size | backend | KV | test | t/s |\n| --- | ---: | --- | ---: | ---: | ---: |\n");
  std::vector<Test> tests;
  for (const int depth : o.bench_depth) {
    for (const int n : o.bench_prompt) {
      if (n > 0) tests.push_back({n, 0, depth});
    }
    for (const int n : o.bench_generate) {
      if (n > 0) tests.push_back({0, n, depth});
    }
  }
  pack_weights(*model);
  for (size_t i = 0; i < tests.size(); ++i) {
    const Result r = measure(*model, o, tests[i]);
    write_out(json ? cat(i == 0 ? "\n  " : ",\n  ", json_row(r, model->info())) : markdown_row(r, model->info()));
  }
  if (json) write_out("\n]\n");
  return 0;
}

}  // namespace foveal::cli
