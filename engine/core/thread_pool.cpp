// The workers' side of the fork-join pool: an epoch counter starts a call, a pending counter ends it.
#include "engine/core/thread_pool.h"

#include <chrono>
#include <cstdio>
#include <set>
#include <string>
#include <system_error>

#if defined(__linux__)
#include <sched.h>
#endif

#include "engine/core/error.h"

namespace foveal {

namespace {

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Spins until done() holds; after a first burst every turn also offers the core to other threads, so more threads
// than cores still make progress. False when `limit` ran out first.
template <class Done>
bool spin(Done done, std::chrono::microseconds limit) {
  for (int i = 0; i < 1000; ++i) {
    if (done()) return true;
    pause_cpu();
  }
  const auto end = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
      pause_cpu();
    }
    std::this_thread::yield();
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

constexpr auto idle_spin = std::chrono::microseconds(300);  // a worker's patience before it sleeps
constexpr auto join_spin = std::chrono::hours(1000);        // the caller waits for its workers without limit

}  // namespace

ThreadPool::ThreadPool(int n_threads) : n_(n_threads) {
  if (n_threads < 1 || n_threads > 1024) {
    fail(ErrorCode::invalid_argument, "threads: found ", n_threads, ", expected 1 to 1024");
  }
  threads_.reserve(static_cast<size_t>(n_ - 1));
  try {
    for (int i = 1; i < n_; ++i) threads_.emplace_back([this, i] { worker(i); });
  } catch (const std::system_error& e) {
    stop_workers();
    fail(ErrorCode::out_of_memory, "can't start ", n_, " threads: ", e.what());
  }
}

ThreadPool::~ThreadPool() {
  stop_workers();
}

void ThreadPool::stop_workers() {
  {
    std::lock_guard lock(sleep_);
    stop_.store(true);
    epoch_.fetch_add(1);
  }
  wake_.notify_all();
  for (auto& t : threads_) t.join();
  threads_.clear();
}

void ThreadPool::run_raw(Raw fn, void* arg) {
  std::lock_guard one_caller(caller_);
  if (n_ == 1) {
    fn(arg, 0, 1);
    return;
  }
  fn_ = fn;
  arg_ = arg;
  pending_.store(n_ - 1, std::memory_order_relaxed);
  epoch_.fetch_add(1);  // sequentially consistent with `sleepers_`: a worker that misses the epoch is counted below
  if (sleepers_.load() > 0) {
    { std::lock_guard lock(sleep_); }
    wake_.notify_all();
  }
  fn(arg, 0, n_);
  spin([this] { return pending_.load(std::memory_order_acquire) == 0; }, join_spin);
}

void ThreadPool::worker(int index) {
  uint64_t seen = 0;
  for (;;) {
    const auto called = [&] { return epoch_.load() != seen; };
    if (!spin(called, idle_spin)) {
      std::unique_lock lock(sleep_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, called);
      sleepers_.fetch_sub(1);
    }
    ++seen;  // one call at a time: the epoch can't run ahead of a worker that hasn't finished the call before
    if (stop_.load()) return;
    fn_(arg_, index, n_);
    pending_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

namespace {

#if defined(__linux__)
// First line of a small file; empty when it can't be read.
std::string first_line(const std::string& path) {
  std::string line;
  if (FILE* f = std::fopen(path.c_str(), "re")) {
    char text[256];
    if (std::fgets(text, sizeof text, f)) line = text;
    std::fclose(f);
  }
  return line;
}

// Cores that the control group's quota allows, rounded up; 0 when there is none.
int quota_cores() {
  long long quota = 0, period = 0;
  if (std::sscanf(first_line("/sys/fs/cgroup/cpu.max").c_str(), "%lld %lld", &quota, &period) != 2) return 0;
  if (quota <= 0 || period <= 0) return 0;
  return static_cast<int>((quota + period - 1) / period);
}
#endif

}  // namespace

int ThreadPool::default_threads() {
  int cores = 0;
#if defined(__linux__)
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
    // Logical CPUs with the same list of siblings are one physical core.
    std::set<std::string> physical;
    for (int i = 0; i < CPU_SETSIZE; ++i) {
      if (!CPU_ISSET(i, &allowed)) continue;
      const auto cpu = std::to_string(i);
      const auto siblings = first_line("/sys/devices/system/cpu/cpu" + cpu + "/topology/thread_siblings_list");
      physical.insert(siblings.empty() ? "cpu" + cpu : siblings);
    }
    cores = static_cast<int>(physical.size());
  }
  if (const int quota = quota_cores(); quota > 0 && quota < cores) cores = quota;
#endif
  if (cores == 0) cores = static_cast<int>(std::thread::hardware_concurrency());
  return cores < 1 ? 1 : (cores > 1024 ? 1024 : cores);
}

}  // namespace foveal
