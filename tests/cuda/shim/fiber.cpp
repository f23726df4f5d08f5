// Switching stacks: the six registers that a callee preserves, and the stack pointer.
#include "fiber.h"

#ifdef __x86_64__
asm(R"(
.text
.globl foveal_shim_switch
.type foveal_shim_switch, @function
foveal_shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size foveal_shim_switch, .-foveal_shim_switch
)");
#endif

namespace shim {

#ifdef __x86_64__

Fiber* Fiber::entered_ = nullptr;

void Fiber::run() {
  Fiber* self = entered_;
  self->body_();
  self->leave();  // for good: prepare() comes before the next enter()
}

void Fiber::prepare(void (*body)()) {
  body_ = body;
  auto top = reinterpret_cast<uintptr_t>(stack_.get() + stack_bytes) / 16 * 16;
  auto* words = reinterpret_cast<uint64_t*>(top - 64);
  for (int i = 0; i < 8; ++i) words[i] = 0;             // registers, and run() has nowhere to return to
  words[6] = reinterpret_cast<uintptr_t>(&Fiber::run);  // above them, so that run() begins as a call does
  here_ = words;
}

void Fiber::enter() {
  entered_ = this;
  foveal_shim_switch(&scheduler_, here_);
}

void Fiber::leave() {
  foveal_shim_switch(&here_, scheduler_);
}

#else

void Fiber::prepare(void (*body)()) {
  getcontext(&here_);
  here_.uc_stack.ss_sp = stack_.get();
  here_.uc_stack.ss_size = stack_bytes;
  here_.uc_link = &scheduler_;
  makecontext(&here_, body, 0);
}

void Fiber::enter() {
  swapcontext(&scheduler_, &here_);
}

void Fiber::leave() {
  swapcontext(&here_, &scheduler_);
}

#endif

}  // namespace shim
