// A stack of its own for every thread of a block. ucontext asks the system at every switch; on x86-64 a dozen
// instructions do, which is most of what the shim's tests take.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#ifdef __x86_64__
// Saves what a call must not change on this stack, its end in *from, and goes on where `to` was saved.
extern "C" void foveal_shim_switch(void** from, void* to);
#else
#include <ucontext.h>
#endif

namespace shim {

class Fiber {
 public:
  void prepare(void (*body)());  // the next enter() runs body from its start
  void enter();                  // from the scheduler, until leave() or the end of body
  void leave();                  // from the fiber, until the next enter()

 private:
  static constexpr size_t stack_bytes = 64 * 1024;
  std::unique_ptr<char[]> stack_{new char[stack_bytes]};
#ifdef __x86_64__
  static void run();
  static Fiber* entered_;
  void (*body_)() = nullptr;
  void *here_ = nullptr, *scheduler_ = nullptr;
#else
  ucontext_t here_, scheduler_;
#endif
};

}  // namespace shim
