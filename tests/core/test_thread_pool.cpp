// The pool runs every item once, wakes sleeping workers, and survives more threads than cores.
#include "engine/core/thread_pool.h"

#include <chrono>
#include <numeric>
#include <thread>

#include "engine/core/error.h"
#include "tests/check.h"

using foveal::ThreadPool;

TEST(every_worker_once) {
  for (int n : {1, 2, 3, 7}) {
    ThreadPool pool(n);
    std::vector<int> calls(static_cast<size_t>(n), 0);
    bool right_size = true;
    for (int round = 0; round < 200; ++round) {
      pool.run([&](int i, int total) {
        ++calls[static_cast<size_t>(i)];
        if (total != n) right_size = false;
      });
    }
    CHECK(right_size);
    for (int c : calls) CHECK_EQ(c, 200);
  }
}

TEST(every_item_once) {
  ThreadPool pool(3);
  for (int64_t items : {0, 1, 2, 3, 1000}) {
    std::vector<int> done(static_cast<size_t>(items), 0);
    pool.for_each(items, [&](int64_t i) { ++done[static_cast<size_t>(i)]; });
    CHECK_EQ(std::accumulate(done.begin(), done.end(), 0), static_cast<int>(items));
    for (int d : done) CHECK_EQ(d, 1);
  }
}

TEST(results_are_visible_after_sleep) {
  ThreadPool pool(3);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));  // long enough for the workers to sleep
    std::vector<int> values(3, -1);
    pool.run([&](int i, int) { values[static_cast<size_t>(i)] = round * 10 + i; });
    for (int i = 0; i < 3; ++i) CHECK_EQ(values[static_cast<size_t>(i)], round * 10 + i);
  }
}

TEST(callers_take_turns) {
  ThreadPool pool(2);
  std::atomic<int> inside{0}, most{0}, total{0};
  const auto call = [&] {
    for (int i = 0; i < 100; ++i) {
      pool.run([&](int worker, int) {
        if (worker == 0) {
          const int now = inside.fetch_add(1) + 1;
          if (now > most.load()) most.store(now);
        }
        total.fetch_add(1);
        if (worker == 0) inside.fetch_sub(1);
      });
    }
  };
  std::thread other(call);
  call();
  other.join();
  CHECK_EQ(total.load(), 400);
  CHECK_EQ(most.load(), 1);
}

TEST(start_and_stop) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(4);
  CHECK_THROWS(foveal::Error, "1 to 1024", ThreadPool(0));
  CHECK_THROWS(foveal::Error, "found -3", ThreadPool(-3));
  CHECK(ThreadPool::default_threads() >= 1);
  CHECK(ThreadPool::default_threads() <= static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
}
