// A CudaDevice whose memory is the host's, open only while a launch or a copy runs: the CUDA backend with kernels that
// the shim runs. Nothing runs before it must: work waits for a copy out or a release, copies beside it for a mark that
// somebody waits for (or run as early as marks allow), so that a wait that is missing shows.
#include <deque>
#include <set>

#include "engine/backend/cuda_device.h"
#include "tests/cuda/shim/cuda_runtime.h"
#include "tests/runtime/guarded_memory.h"

namespace foveal {
namespace {

using guarded::settings;

struct HostGraph final : CudaGraph {
  std::vector<std::function<void()>> launches;
};

class HostDevice final : public CudaDevice {
 public:
  HostDevice() : arena_(settings.total) {}
  std::string name() const override { return "shim:0"; }
  int multiprocessors() const override { return 2; }
  uint64_t free_bytes() override { return settings.total - settings.used; }
  void* allocate(size_t bytes) override { return arena_.allocate(bytes); }
  void release(void* p) noexcept override {
    run_all();
    arena_.release(p);
  }
  void copy_in(void* to, const void* host, size_t bytes) override {
    check_sides(to, true, host, false);
    const auto* from = static_cast<const char*>(host);
    push(false, [=, taken = std::vector<char>(from, from + bytes)] { std::memcpy(to, taken.data(), bytes); });
  }
  void copy_out(void* host, const void* from, size_t bytes) override {
    check_sides(host, false, from, true);
    run_all_of(false);
    inside([&] { std::memcpy(host, from, bytes); });
  }
  void copy_inside(void* to, const void* from, size_t bytes) override {
    check_sides(to, true, from, true);
    push(false, [=] { std::memcpy(to, from, bytes); });
  }
  cuda::Stream begin() override {
    shim::recorder = &launches_;
    return nullptr;
  }
  void end(const char*) override {
    shim::recorder = nullptr;
    for (auto& launch : launches_) {
      if (capture_) {
        capture_->launches.push_back(std::move(launch));
      } else {
        push(false, std::move(launch));
      }
    }
    launches_.clear();
  }

  bool captures() const override { return settings.graphs; }
  void begin_capture() override { capture_ = std::make_unique<HostGraph>(); }
  std::unique_ptr<CudaGraph> end_capture() override {
    ++settings.captured;
    return std::move(capture_);
  }
  void drop_capture() noexcept override { capture_ = nullptr; }
  void launch(CudaGraph& graph) override {
    ++settings.replayed;
    for (const auto& launch : static_cast<HostGraph&>(graph).launches) push(false, launch);
  }

  void* allocate_locked(size_t bytes) override { return settings.locked ? std::malloc(bytes) : nullptr; }
  void release_locked(void* p) noexcept override {
    run_all();
    std::free(p);
  }
  void copy_in_beside(void* to, const void* host, size_t bytes) override {
    check_sides(to, true, host, false);
    push(true, [=] { std::memcpy(to, host, bytes); });
  }
  void mark(CudaMark m, bool beside) override {
    latest_[m] = ++made_;
    push(beside, {}, made_);
  }
  void wait(CudaMark m, bool beside) override {
    if (latest_.count(m)) push(beside, {}, 0, latest_[m]);
  }
  void wait_on_host(CudaMark m) override {
    if (latest_.count(m)) run_until(latest_[m]);
  }

 private:
  struct Step {
    std::function<void()> run;
    long makes = 0, needs = 0;  // marks
  };
  using Line = std::deque<Step>;

  void check_sides(const void* to, bool to_inside, const void* from, bool from_inside) {
    if (arena_.holds(to) != to_inside || arena_.holds(from) != from_inside)
      fail(ErrorCode::device, "a copy with a pointer of the wrong side");
    if (to_inside && from_inside) return;
    if (settings.copies++ == settings.fail_copy_at) fail(ErrorCode::device, "shim: no copy");
  }
  template <class Fn>
  void inside(Fn&& fn) {
    if (open_++ == 0) arena_.open();
    fn();
    if (--open_ == 0) arena_.close();
  }
  void push(bool beside, std::function<void()> run, long makes = 0, long needs = 0) {
    if (capture_ && !beside) fail(ErrorCode::device, "shim: a copy or a mark in a capture");
    lines_[beside].push_back({std::move(run), makes, needs});
    if (settings.eager) inside([&] { run_early(); });
  }
  void run_early() {
    Line& early = lines_[true];
    while (!early.empty() && (early.front().needs == 0 || done_.count(early.front().needs))) run_one(early);
  }
  void run_one(Line& line) {
    const Step step = std::move(line.front());
    line.pop_front();
    if (step.needs) run_until(step.needs);
    if (step.run) step.run();
    if (step.makes) done_.insert(step.makes);
  }
  void run_until(long mark) {
    inside([&] { run_to(mark); });
  }
  void run_to(long mark) {
    for (const bool beside : {false, true}) {
      Line& line = lines_[beside];
      if (std::none_of(line.begin(), line.end(), [&](const Step& s) { return s.makes == mark; })) continue;
      while (!done_.count(mark)) run_one(line);
    }
  }
  void run_all_of(bool beside) {
    inside([&] {
      while (!lines_[beside].empty()) run_one(lines_[beside]);
    });
  }
  void run_all() {
    run_all_of(false);
    run_all_of(true);
  }

  guarded::Arena arena_;
  Line lines_[2];  // the work, and beside it
  std::vector<std::function<void()>> launches_;
  std::unique_ptr<HostGraph> capture_;
  std::map<CudaMark, long> latest_;
  long made_ = 0;
  std::set<long> done_;
  int open_ = 0;
};

}  // namespace

GpuDevices find_cuda_devices() {
  if (!settings.none_because.empty()) return {{}, settings.none_because};
  return {{{0, "Shim", "7.5", settings.total, settings.total - settings.used}}, ""};
}

std::unique_ptr<CudaDevice> open_cuda_device(int) {
  return std::make_unique<HostDevice>();
}

}  // namespace foveal
