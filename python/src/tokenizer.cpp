// Tokenizer: text (UTF-8 bytes) to ids and back.
#include "bind.h"

namespace foveal::python {
namespace {

std::shared_ptr<const Tokenizer> load(const nb::bytes& path) {
  const std::string name = from_bytes(path);
  return without_gil([&] { return load_tokenizer(name); });
}

std::vector<int32_t> encode(const Tokenizer& t, const nb::bytes& text, bool special) {
  const std::string s = from_bytes(text);
  return without_gil([&] { return t.encode(s, special); });
}

nb::bytes decode(const Tokenizer& t, const std::vector<int32_t>& ids) {
  return to_bytes(t.decode(ids));
}

}  // namespace

void bind_tokenizer(nb::module_& m) {
  nb::class_<Tokenizer>(m, "Tokenizer", "The vocabulary of a GGUF file.")
      .def_static(
          "load", [](const nb::bytes& path) { return std::const_pointer_cast<Tokenizer>(load(path)); }, nb::arg("path"))
      .def("encode", &encode, nb::arg("text"), nb::arg("special"))
      .def("decode", &decode, nb::arg("ids"))
      .def("is_eog", &Tokenizer::is_eog, nb::arg("id"))
      .def_prop_ro("n_vocab", &Tokenizer::n_vocab)
      .def_prop_ro("bos", &Tokenizer::bos)
      .def_prop_ro("eos", &Tokenizer::eos)
      .def_prop_ro("add_bos", &Tokenizer::add_bos);
}

}  // namespace foveal::python
