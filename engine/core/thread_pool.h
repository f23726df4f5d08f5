// A fork-join pool: run(fn) calls fn(worker, n_workers) once on every worker, the caller being worker 0.
// Workers spin for a short while between calls, then sleep: idle sessions don't burn the CPU.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace foveal {

class ThreadPool {
 public:
  explicit ThreadPool(int n_threads);  // 1 to 1024 (invalid_argument); out_of_memory when they can't be started
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return n_; }

  // fn: void(int worker, int n_workers). Returns when all are done. Not reentrant; one caller at a time
  // (callers serialise on an internal mutex). fn must not throw.
  template <class Fn>
  void run(Fn&& fn) {
    run_raw([](void* f, int i, int n) { (*static_cast<std::remove_reference_t<Fn>*>(f))(i, n); },
            const_cast<void*>(static_cast<const void*>(&fn)));
  }

  // Fixed pieces: item i of n goes to a worker by index alone or by whoever is free; each item is computed whole by
  // one worker, so results don't depend on the number of threads. fn: void(int64_t item).
  template <class Fn>
  void for_each(int64_t n_items, Fn&& fn) {
    if (n_items <= 0) return;
    if (n_ == 1 || n_items == 1) {
      for (int64_t i = 0; i < n_items; ++i) fn(i);
      return;
    }
    std::atomic<int64_t> next{0};
    run([&](int, int) {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n_items;) fn(i);
    });
  }

  static int default_threads();  // physical cores available to the process

 private:
  using Raw = void (*)(void*, int, int);
  void run_raw(Raw fn, void* arg);
  void stop_workers();
  void worker(int index);

  int n_;
  std::vector<std::thread> threads_;
  std::mutex caller_, sleep_;
  std::condition_variable wake_;
  Raw fn_ = nullptr;
  void* arg_ = nullptr;
  alignas(64) std::atomic<uint64_t> epoch_{0};
  alignas(64) std::atomic<int> pending_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace foveal
