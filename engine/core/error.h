// The one error type of the library: a code (mapped to Python classes and CLI exit statuses) and a message
// that names the thing, what was found and what was expected.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace foveal {

enum class ErrorCode {
  file_format,       // the file's bytes are wrong
  unsupported,       // a legal file that this engine can't run
  io,                // the operating system refused
  image,             // a picture that can't be decoded or is out of limits
  invalid_argument,  // the caller's value is out of range
  mismatch,          // model and mmproj, session and model
  context_full,
  out_of_memory,
  device,
  state,  // busy, closed, after fork
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

// Concatenates anything that streams.
template <class... Args>
std::string cat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

template <class... Args>
[[noreturn]] void fail(ErrorCode code, const Args&... args) {
  throw Error(code, cat(args...));
}

// File strings in messages: control bytes and non-ASCII escaped as \xNN, cut at 80 characters.
std::string quoted(std::string_view text);

}  // namespace foveal
