// Rows of numbers as tensor data and back: what foveal.quantize and the tests of the quantisers use.
#include "bind.h"

namespace foveal::python {
namespace {

using FloatTable = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ByteTable = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<nb::numpy, uint8_t, nb::ndim<2>>;

// Takes the storage: [rows, size / rows].
template <class T>
nb::ndarray<nb::numpy, T, nb::ndim<2>> table(std::vector<T> values, size_t rows) {
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  T* data = owned->data();
  const size_t cols = rows == 0 ? 0 : owned->size() / rows;
  nb::capsule owner(owned.release(), [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return {data, {rows, cols}, owner};
}

}  // namespace

void bind_quantize(nb::module_& m) {
  m.def(
      "quantize_rows",
      [](const std::string& type, const FloatTable& x) {
        const auto cols = static_cast<int64_t>(x.shape(1));
        return table(without_gil([&] { return quantize_rows(type, {x.data(), x.size()}, cols); }), x.shape(0));
      },
      nb::arg("type"), nb::arg("x"), "float32 [rows, cols] as uint8 [rows, bytes of a row]");
  m.def(
      "dequantize_rows",
      [](const std::string& type, const ByteTable& blocks, int64_t cols) {
        return table(without_gil([&] {
                       return dequantize_rows(type, {blocks.data(), blocks.size()}, cols);
                     }),
                     blocks.shape(0));
      },
      nb::arg("type"), nb::arg("blocks"), nb::arg("cols"), "uint8 [rows, bytes of a row] as float32 [rows, cols]");
}

}  // namespace foveal::python
