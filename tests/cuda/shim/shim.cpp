// The fibers behind the host shim: one per thread of a block, switched at barriers and warp exchanges.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cuda_runtime.h"
#include "fiber.h"

namespace shim {

Coordinates now;
bool backwards = false;
long launches = 0;
std::vector<std::function<void()>>* recorder = nullptr;

namespace {

struct Thread {
  Fiber fiber;
  dim3 thread;
  int warp = 0, lane = 0;
  bool done = false;
};

// Values that the lanes of a warp show one another. A lane may run one exchange ahead of the slowest reader, not two.
struct Warp {
  uint64_t slots[2][32] = {};
  int arrived = 0, live = 0;
  long generation = 0;
};

std::vector<std::unique_ptr<Thread>> fibers;
std::vector<Warp> warps;
std::vector<unsigned char> shared;
Thread* running = nullptr;
const std::function<void()>* kernel = nullptr;
int n_threads = 0, waiting = 0;
long generation = 0, steps = 0;  // barriers passed; arrivals and ends of threads

[[noreturn]] void wrong(const char* what) {
  std::fprintf(stderr, "CUDA shim: %s (block %u,%u,%u thread %u,%u,%u)\n", what, now.block.x, now.block.y, now.block.z,
               now.thread.x, now.thread.y, now.thread.z);
  std::abort();
}

void pause() {
  running->fiber.leave();
}

void start() {
  (*kernel)();
  running->done = true;
  ++steps;
  --warps[static_cast<size_t>(running->warp)].live;
}

// Waits until every lane of the warp has shown its value; returns the slots.
const uint64_t* meet(unsigned mask, uint64_t value) {
  Warp& warp = warps[static_cast<size_t>(running->warp)];
  if (mask != 0xffffffffu) wrong("an exchange among some lanes only");
  if (warp.live != __builtin_popcount(mask) && warp.live != n_threads - running->warp * 32)
    wrong("an exchange after lanes have returned");
  const long mine = warp.generation;
  uint64_t* slots = warp.slots[mine & 1];
  slots[running->lane] = value;
  ++steps;
  if (++warp.arrived == warp.live) {
    warp.arrived = 0;
    ++warp.generation;
  }
  while (warp.generation == mine) pause();
  return slots;
}

void run_block() {
  const int n = n_threads;
  warps.assign(static_cast<size_t>((n + 31) / 32), Warp());
  waiting = 0;
  for (int i = 0; i < n; ++i) {
    Thread& f = *fibers[static_cast<size_t>(i)];
    const auto u = static_cast<unsigned>(i);
    f.thread =
        dim3(u % now.block_size.x, u / now.block_size.x % now.block_size.y, u / now.block_size.x / now.block_size.y);
    f.warp = i / 32;
    f.lane = i % 32;
    f.done = false;
    ++warps[static_cast<size_t>(f.warp)].live;
    f.fiber.prepare(start);
  }
  for (int left = n; left > 0;) {
    const long before = steps;
    for (int i = 0; i < n; ++i) {
      Thread& f = *fibers[static_cast<size_t>(backwards ? n - 1 - i : i)];
      if (f.done) continue;
      running = &f;
      now.thread = f.thread;
      f.fiber.enter();
      if (f.done) --left;
    }
    if (steps == before) wrong("a barrier or an exchange that some threads never reach");
  }
}

}  // namespace

void barrier() {
  const long mine = generation;
  ++steps;
  if (++waiting == n_threads) {
    waiting = 0;
    ++generation;
  }
  while (generation == mine) pause();
}

uint64_t exchange(unsigned mask, uint64_t value, int from) {
  return meet(mask, value)[from];
}

uint64_t ballot(unsigned mask, bool value) {
  const uint64_t* slots = meet(mask, value ? 1 : 0);
  uint64_t bits = 0;
  for (int i = 0; i < 32; ++i) bits |= slots[i] << i;
  return bits;
}

void gather(uint64_t value, uint64_t (&all)[32]) {
  std::memcpy(all, meet(0xffffffffu, value), sizeof all);
}

void sync_warp(unsigned mask) {
  meet(mask, 0);
}

unsigned char* dynamic_shared() {
  return shared.data();
}

void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  if (recorder) {
    recorder->emplace_back([=] { launch(grid, block, shared_bytes, body); });
    return;
  }
  ++launches;
  n_threads = static_cast<int>(block.x * block.y * block.z);
  if (n_threads < 1 || n_threads > 1024) wrong("a block of more than 1024 threads or none");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) wrong("a grid out of bounds");
  if (shared_bytes > 64 * 1024) wrong("more shared memory than the oldest card has (64 KiB)");
  while (static_cast<int>(fibers.size()) < n_threads) fibers.push_back(std::make_unique<Thread>());
  kernel = &body;
  now.block_size = block;
  now.grid_size = grid;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        now.block = dim3(x, y, z);
        shared.assign((shared_bytes + 15) / 16 * 16, 0xff);
        run_block();
      }
}

}  // namespace shim
