// The Python module `_foveal`: a table of contents. Each concept is bound in the file of its name.
#include "bind.h"

NB_MODULE(_foveal, m) {
  m.doc() = "Native part of foveal. Private: use the package `foveal`.";
  m.attr("version") = foveal::version();
  m.def("list_devices", &foveal::list_devices, "A line for each device that a model can be loaded on, GPUs first.");
  nb::set_leak_warnings(false);  // a model in a global variable is no leak
  foveal::python::bind_errors(m);
  foveal::python::bind_progress(m);
  foveal::python::bind_kv(m);
  foveal::python::bind_tokenizer(m);
  foveal::python::bind_model(m);
  foveal::python::bind_session(m);
  foveal::python::bind_evict(m);
  foveal::python::bind_quantize(m);
}
