// foveal info: what a GGUF file holds.
#include "tools/cli/commands.h"
#include "tools/cli/setup.h"

namespace foveal::cli {

int info(const Options& o) {
  const FileDescription f = describe_file(o.model);
  std::string text = cat(f.path, "\nGGUF version ", f.version, ", ", bytes_text(f.bytes), ", ", f.metadata.size(),
                         " keys, ", f.tensors.size(), " tensors\n\nmetadata:\n");
  for (const auto& [key, value] : f.metadata) text += cat("  ", key, " = ", value, "\n");
  text += "\ntensors:\n";
  size_t longest = 0;
  for (const auto& t : f.tensors) longest = std::max(longest, t.name.size());
  for (const auto& t : f.tensors) {
    text += cat("  ", t.name, std::string(longest + 2 - t.name.size(), ' '), t.type,
                std::string(t.type.size() < 8 ? 8 - t.type.size() : 1, ' '), t.shape, "  ", bytes_text(t.bytes), "\n");
  }
  write_out(text);
  for (const std::string& warning : f.warnings) write_note("warning: " + warning);
  return 0;
}

}  // namespace foveal::cli
