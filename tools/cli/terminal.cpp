// Terminal handling of the command line program.
#include "tools/cli/terminal.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace foveal::cli {
namespace {

constexpr size_t max_line = size_t{16} << 20;

std::atomic<Session*> running{nullptr};
std::atomic<int> interrupt_count{0};
int wake[2] = {-1, -1};  // a pipe: Ctrl-C writes to it, so that a wait for input ends whenever and wherever it came
static_assert(std::atomic<Session*>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

termios saved_terminal;
std::atomic<bool> terminal_changed{false};

void restore_terminal() {  // also from the signal handler
  if (!terminal_changed.exchange(false)) return;
  constexpr std::string_view no_brackets = "\033[?2004l";
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, no_brackets.data(), no_brackets.size());
  tcsetattr(STDIN_FILENO, TCSANOW, &saved_terminal);
}

extern "C" void on_interrupt(int) {
  Session* session = running.load();
  if (interrupt_count.fetch_add(1) >= 1 && session) {
    restore_terminal();
    _exit(130);
  }
  if (session) session->cancel();
  const int saved = errno;
  [[maybe_unused]] const ssize_t written = ::write(wake[1], "", 1);
  errno = saved;
}

}  // namespace

void write_out(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    throw OutputClosed{errno};
}

void write_note(std::string_view text) {
  std::fprintf(stderr, "%.*s\n", static_cast<int>(text.size()), text.data());
}

ProgressLine::ProgressLine() : terminal_(isatty(STDERR_FILENO) == 1), start_(std::chrono::steady_clock::now()) {}

void ProgressLine::show(const char* what, float share) {
  const auto now = std::chrono::steady_clock::now();
  const bool early = now - start_ < std::chrono::milliseconds(300);
  if (!terminal_ || early || now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  shown_ = true;
  std::fprintf(stderr, "\r\033[K%s %3.0f %%", what, 100.0 * static_cast<double>(share));
}

void ProgressLine::erase() {
  if (shown_) std::fputs("\r\033[K", stderr);
  shown_ = false;
}

Progress ProgressLine::callback() {
  return [this](const char* what, float share) { show(what, share); };
}

CancelOnInterrupt::CancelOnInterrupt(Session& session) {
  reset_interrupts();
  running = &session;
  catch_interrupts();
}

CancelOnInterrupt::~CancelOnInterrupt() {
  running = nullptr;
}

int interrupts() {
  return interrupt_count;
}
void reset_interrupts() {
  interrupt_count = 0;
  char drained[64];
  while (::read(wake[0], drained, sizeof drained) > 0) {
  }
}

void catch_interrupts() {
  if (wake[0] < 0 && pipe2(wake, O_NONBLOCK | O_CLOEXEC) != 0) fail(ErrorCode::io, "pipe: ", std::strerror(errno));
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
}

// On a terminal: brackets around pasted text (the terminal sends them), control characters not echoed as ^X, so that
// the brackets stay invisible.
LineReader::LineReader() : terminal_(isatty(STDIN_FILENO) == 1 && tcgetattr(STDIN_FILENO, &saved_terminal) == 0) {
  if (!terminal_) return;
  terminal_changed = true;
  termios quiet = saved_terminal;
  quiet.c_lflag &= ~static_cast<tcflag_t>(ECHOCTL);
  tcsetattr(STDIN_FILENO, TCSANOW, &quiet);
  std::fputs("\033[?2004h", stderr);
}

LineReader::~LineReader() {
  restore_terminal();
}

bool LineReader::more_waiting() const {
  if (!buffer_.empty()) return true;
  pollfd input{STDIN_FILENO, POLLIN, 0};
  return poll(&input, 1, 30) > 0;
}

LineReader::Status LineReader::physical_line(std::string& line) {
  for (;;) {
    const size_t end = buffer_.find('\n');
    if (end != std::string::npos) {
      line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      if (!line.empty() && line.back() == '\r') line.pop_back();
      return Status::line;
    }
    if (ended_) {
      line.swap(buffer_);
      buffer_.clear();
      return line.empty() ? Status::end : Status::line;
    }
    pollfd inputs[2] = {{STDIN_FILENO, POLLIN, 0}, {wake[0], POLLIN, 0}};
    if (poll(inputs, 2, -1) < 0 && errno != EINTR) fail(ErrorCode::io, "standard input: ", std::strerror(errno));
    char chunk[4096];
    if (inputs[1].revents != 0) {
      while (::read(wake[0], chunk, sizeof chunk) > 0) {
      }
      return Status::interrupted;
    }
    if (inputs[0].revents == 0) continue;
    const ssize_t n = ::read(STDIN_FILENO, chunk, sizeof chunk);
    if (n > 0) buffer_.append(chunk, static_cast<size_t>(n));
    if (n == 0 || (n < 0 && errno != EINTR)) ended_ = true;
    if (buffer_.size() > max_line) fail(ErrorCode::invalid_argument, "standard input: a line of more than 16 MiB");
  }
}

LineReader::Status LineReader::read(const char* prompt, std::string& line) {
  if (terminal_) std::fputs(prompt, stderr);
  line.clear();
  bool pasting = false;
  for (bool more = true; more;) {
    std::string next;
    const Status status = physical_line(next);
    if (status == Status::interrupted || (status == Status::end && line.empty())) return status;
    if (terminal_) {
      for (const auto& [mark, begins] : {std::pair<std::string_view, bool>{"\033[200~", true}, {"\033[201~", false}}) {
        for (size_t at; (at = next.find(mark)) != std::string::npos; pasting = begins) next.erase(at, mark.size());
      }
    }
    const bool continued = !next.empty() && next.back() == '\\';
    if (continued) next.pop_back();
    line += line.empty() ? next : "\n" + next;
    more = status == Status::line && (continued || pasting || (terminal_ && more_waiting()));
  }
  return Status::line;
}

}  // namespace foveal::cli
