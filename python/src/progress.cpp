// Progress of long calls, Ctrl-C inside them, and small conversions.
#include "bind.h"

namespace foveal::python {

bool SignalCheck::interrupted() {
  const auto now = std::chrono::steady_clock::now();
  if (now - last_ < std::chrono::milliseconds(20)) return false;
  last_ = now;
  const nb::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

nb::bytes to_bytes(const std::string& text) {
  return nb::bytes(text.data(), text.size());
}
std::string from_bytes(const nb::bytes& text) {
  return std::string(text.c_str(), text.size());
}

FloatRows to_numpy(Matrix matrix) {
  auto* owner = new Matrix(std::move(matrix));
  const nb::capsule capsule(owner, [](void* p) noexcept { delete static_cast<Matrix*>(p); });
  const size_t shape[2] = {static_cast<size_t>(owner->rows()), static_cast<size_t>(owner->cols())};
  return FloatRows(owner->view().data, 2, shape, capsule);
}

FloatRow to_numpy(const float* data, size_t n) {
  auto* copy = new float[n];
  std::copy(data, data + n, copy);
  const nb::capsule capsule(copy, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return FloatRow(copy, {n}, capsule);
}

IntRow to_numpy(const std::vector<int32_t>& values) {
  auto* copy = new int32_t[values.size()];
  std::copy(values.begin(), values.end(), copy);
  const nb::capsule capsule(copy, [](void* p) noexcept { delete[] static_cast<int32_t*>(p); });
  return IntRow(copy, {values.size()}, capsule);
}

ImageView image_view(const Pixels& pixels) {
  check_image_size(static_cast<int64_t>(pixels.shape(1)), static_cast<int64_t>(pixels.shape(0)));
  const int width = static_cast<int>(pixels.shape(1));
  return {pixels.data(), width, static_cast<int>(pixels.shape(0)), int64_t{3} * width};
}

void bind_progress(nb::module_& m) {
  nb::class_<ProgressState>(m, "Progress", "What a long call is doing; read it from another thread.")
      .def(nb::init<>())
      .def("read", &ProgressState::read, "(what, share 0..1) of the step that runs now.");
}

}  // namespace foveal::python
