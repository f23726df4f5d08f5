// Error codes of the engine as the exception classes of foveal.errors.
#include <new>

#include "bind.h"

namespace foveal::python {
namespace {

const char* class_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::file_format:
      return "FormatError";
    case ErrorCode::unsupported:
      return "UnsupportedError";
    case ErrorCode::io:
      return "FileError";
    case ErrorCode::image:
      return "ImageError";
    case ErrorCode::invalid_argument:
      return "ArgumentError";
    case ErrorCode::mismatch:
      return "MismatchError";
    case ErrorCode::context_full:
      return "ContextFull";
    case ErrorCode::out_of_memory:
      return "MemoryLimit";
    case ErrorCode::device:
      return "DeviceError";
    case ErrorCode::state:
      return "StateError";
  }
  return "Error";
}

// Messages quote file bytes, so they may be no UTF-8.
void raise(const char* name, const std::string& message) {
  const nb::object type = nb::module_::import_("foveal.errors").attr(name);
  PyObject* text = PyUnicode_DecodeUTF8(message.data(), static_cast<Py_ssize_t>(message.size()), "replace");
  if (text == nullptr) return;
  PyErr_SetObject(type.ptr(), text);
  Py_DECREF(text);
}

}  // namespace

void bind_errors(nb::module_&) {
  nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const Error& e) {
      raise(class_name(e.code()), e.what());
    } catch (const std::bad_alloc&) {
      raise("MemoryLimit", "the operating system has no memory left for this call");
    }
  });
}

}  // namespace foveal::python
