// Says what a file that isn't GGUF seems to be.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace foveal::gguf {

// "a git-LFS pointer (...)", "an HTML page (...)", or the first bytes in hex when nothing is recognised.
std::string describe_foreign_file(std::span<const uint8_t> bytes);

}  // namespace foveal::gguf
