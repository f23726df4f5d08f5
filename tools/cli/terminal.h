// The program's ends: standard output that notices when nobody reads, a progress line, Ctrl-C, lines typed or pasted.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "engine/engine.h"

namespace foveal::cli {

struct OutputClosed {  // thrown by write_out when standard output takes no more
  int error;           // errno
};

void write_out(std::string_view text);   // and flushes
void write_note(std::string_view text);  // a line on standard error

// "encoding the picture 40 %", overwritten in place on standard error when that is a terminal; erased at the end.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine() { erase(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  void show(const char* what, float share);
  void erase();
  Progress callback();

 private:
  bool terminal_, shown_ = false;
  std::chrono::steady_clock::time_point start_, last_{};
};

// While one of these lives, Ctrl-C cancels the session's running call instead of ending the program; a second one
// during the same call ends it.
class CancelOnInterrupt {
 public:
  explicit CancelOnInterrupt(Session& session);
  ~CancelOnInterrupt();
  CancelOnInterrupt(const CancelOnInterrupt&) = delete;
  CancelOnInterrupt& operator=(const CancelOnInterrupt&) = delete;
};
int interrupts();  // since the last reset
void reset_interrupts();
void catch_interrupts();  // from now on Ctrl-C counts instead of killing

// Lines from standard input. A paste of several lines is one line with breaks; so is one that ends in a backslash.
class LineReader {
 public:
  LineReader();
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;
  enum class Status { line, end, interrupted };
  Status read(const char* prompt, std::string& line);

 private:
  Status physical_line(std::string& line);
  bool more_waiting() const;
  std::string buffer_;
  bool terminal_, ended_ = false;
};

}  // namespace foveal::cli
