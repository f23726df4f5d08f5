// What the bindings share: who may use an object, how Ctrl-C gets in, and arrays between numpy and the engine.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#include <chrono>
#include <mutex>
#include <utility>

#include "engine/engine.h"

namespace nb = nanobind;

namespace foveal::python {

void bind_errors(nb::module_& m);
void bind_progress(nb::module_& m);
void bind_kv(nb::module_& m);
void bind_tokenizer(nb::module_& m);
void bind_model(nb::module_& m);
void bind_session(nb::module_& m);
void bind_evict(nb::module_& m);
void bind_quantize(nb::module_& m);

// Pixels uint8 [height, width, 3]; the caller has copied them, so no other thread changes them during a call.
using Pixels = nb::ndarray<const uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
ImageView image_view(const Pixels& pixels);

// Owns one native object for Python. After close() and in a forked child (whose threads are gone) every use is a state
// error; a forked child also never destroys the object, which would wait for threads that don't exist there.
template <class Pointer>
class Owned {
 public:
  explicit Owned(Pointer pointer) : pointer_(std::move(pointer)), pid_(getpid()) {}
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    if (forked()) new Pointer(std::move(pointer_));
  }
  auto& get(const char* what) const {
    if (forked()) fail(ErrorCode::state, what, ": made before a fork; open the model anew in this process");
    if (!pointer_) fail(ErrorCode::state, what, ": used after close()");
    return *pointer_;
  }
  const Pointer& pointer(const char* what) const {
    get(what);
    return pointer_;
  }
  void close() {
    if (!forked()) pointer_.reset();
  }

 private:
  bool forked() const { return getpid() != pid_; }
  Pointer pointer_;
  pid_t pid_;
};

// What a long call is doing, for another thread to read: pulled, never called back.
class ProgressState {
 public:
  void set(const char* what, float share) {
    const std::lock_guard lock(mutex_);
    what_ = what;
    share_ = share;
  }
  std::pair<std::string, float> read() const {
    const std::lock_guard lock(mutex_);
    return {what_, share_};
  }

 private:
  mutable std::mutex mutex_;
  std::string what_;
  float share_ = 0;
};

// Runs Python's signal handlers from inside a call that has released the GIL, at most every 20 ms. True when one of
// them raised (Ctrl-C): the exception is then pending in this thread and python_error() carries it on.
class SignalCheck {
 public:
  bool interrupted();

 private:
  std::chrono::steady_clock::time_point last_{};
};

struct Interrupted {};  // thrown through Model::load by its progress callback

// Calls f without the GIL. When a signal handler raised meanwhile, its exception replaces the outcome.
template <class F>
auto without_gil(F&& f) -> decltype(f()) {
  try {
    nb::gil_scoped_release release;
    if constexpr (std::is_void_v<decltype(f())>) {
      f();
    } else {
      return f();
    }
  } catch (const Interrupted&) {
    throw nb::python_error();
  } catch (const Error&) {
    if (PyErr_Occurred()) throw nb::python_error();
    throw;
  }
}

using FloatRows = nb::ndarray<nb::numpy, float, nb::ndim<2>>;
using FloatRow = nb::ndarray<nb::numpy, float, nb::ndim<1>>;
using IntRow = nb::ndarray<nb::numpy, int32_t, nb::ndim<1>>;

nb::bytes to_bytes(const std::string& text);
std::string from_bytes(const nb::bytes& text);
FloatRows to_numpy(Matrix matrix);                    // float32 [rows, cols], takes the storage
FloatRow to_numpy(const float* data, size_t n);       // float32 [n], a copy
IntRow to_numpy(const std::vector<int32_t>& values);  // int32 [n], a copy
nb::dict kv_stats(const KvStats& stats);
nb::dict kv_options(const KvOptions& options);  // as the words of the Python face

}  // namespace foveal::python
