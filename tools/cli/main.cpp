// The command line program `foveal`: picks the command, turns errors into messages and exit statuses.
#include <cerrno>
#include <cstring>
#include <exception>
#include <new>

#include "tools/cli/commands.h"
#include "tools/cli/terminal.h"

namespace {

using namespace foveal;

int exit_status(ErrorCode code) {
  switch (code) {
    case ErrorCode::file_format:
    case ErrorCode::unsupported:
    case ErrorCode::mismatch:
      return 3;
    case ErrorCode::io:
      return 4;
    case ErrorCode::image:
      return 5;
    case ErrorCode::invalid_argument:
      return 2;
    case ErrorCode::context_full:
      return 6;
    case ErrorCode::out_of_memory:
      return 7;
    case ErrorCode::device:
      return 8;
    case ErrorCode::state:
      return 1;
  }
  return 1;
}

int run_command(const cli::Options& o) {
  if (o.command == "help" || o.help) {
    cli::write_out(cli::help_text(o.command));
    return 0;
  }
  if (o.command == "list-devices") {
    for (const std::string& line : list_devices()) cli::write_out(line + "\n");
    return 0;
  }
  if (o.command == "version") {
    cli::write_out(cat("foveal ", version(), "\n"));
    return 0;
  }
  if (o.command == "run") return cli::run(o);
  if (o.command == "chat") return cli::chat(o);
  if (o.command == "info") return cli::info(o);
  if (o.command == "plan") return cli::plan(o);
  return cli::bench(o);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> args(argv + 1, argv + argc);
    return run_command(cli::parse_command_line(args));
  } catch (const cli::OutputClosed& e) {
    if (e.error != EPIPE) cli::write_note(cat("foveal: standard output: ", std::strerror(e.error)));
    return 1;
  } catch (const Error& e) {
    cli::write_note(cat("foveal: ", e.what()));
    return exit_status(e.code());
  } catch (const std::bad_alloc&) {
    cli::write_note("foveal: the operating system has no memory left");
    return 7;
  } catch (const std::exception& e) {
    cli::write_note(cat("foveal: internal error: ", e.what()));
    return 70;
  }
}
