// Both sides by the last of several runs: the first ones bring in the file's pages and pack the CPU's weights.
#include "engine/runtime/stream_times.h"

#include <algorithm>
#include <chrono>

namespace foveal {
namespace {

constexpr int64_t kRows = 16;

double ms_now() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::milli>(now).count();
}

// A layer by itself: nothing to attend to.
class NoKv final : public LayerKv {
 public:
  void attend(Mat out, ConstMat, ConstMat, ConstMat) override {
    for (int64_t i = 0; i < out.rows; ++i) std::fill_n(out.row(i), out.cols, 0.0f);
  }
};

double cpu_ms(const TextModel& text, Backend& cpu) {
  const TextParams& p = text.params();
  Matrix x(kRows, p.n_embd, cpu.memory());
  std::vector<Matrix> tables;
  std::vector<ConstMat> rope;
  const std::vector<Position> positions(kRows);
  for (int t = 0; t < p.n_rope_tables; ++t) {
    tables.emplace_back(kRows, p.n_rot);
    text.rope_rows(tables.back().view(), positions, t);
    rope.push_back(tables.back().view());
  }
  LayerScratch scratch(p, kRows, cpu.memory());
  NoKv none;
  double took = 0;
  for (int run = 0; run < 3; ++run) {
    std::fill_n(x.view().data, kRows * p.n_embd, 1.0f);
    const double start = ms_now();
    text.layer(0, x.view(), rope, none, scratch);
    took = ms_now() - start;
  }
  return took;
}

double copy_ms(WeightStream& stream, Backend& gpu) {
  Buffer<uint8_t> probe(64, gpu.memory());
  uint8_t back[64];
  double took = 0;
  for (int run = 0; run < 2; ++run) {
    stream.begin();
    const double start = ms_now();
    stream.start(0);
    stream.need(0);
    gpu.copy_out(back, probe.data(), sizeof back);  // done once the layer is there
    took = ms_now() - start;
  }
  return took;
}

}  // namespace

StreamTimes measure_streaming(const TextModel& cpu_text, Backend& cpu, WeightStream& stream, Backend& gpu) {
  return {copy_ms(stream, gpu), cpu_ms(cpu_text, cpu) / static_cast<double>(kRows)};
}

int64_t rows_to_stream(const StreamTimes& times) {
  int64_t rows = 16;
  while (rows < int64_t{1} << 20 && static_cast<double>(rows) * times.row_ms < times.layer_ms) rows *= 2;
  return rows;
}

}  // namespace foveal
