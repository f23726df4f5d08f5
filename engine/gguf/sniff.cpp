// Recognises by their first bytes the files that people open by mistake, with what to do about each.
#include "engine/gguf/sniff.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <string_view>

#include "engine/core/error.h"

namespace foveal::gguf {

namespace {

using namespace std::string_view_literals;

struct Magic {
  std::string_view bytes;
  const char* meaning;
};

constexpr Magic kMagics[] = {
    {"FUGG"sv, "'FUGG', the magic in reverse byte order"},
    {"lmgg"sv, "an old GGML file (before GGUF); convert the original model again"},
    {"fmgg"sv, "an old GGMF file (before GGUF); convert the original model again"},
    {"tjgg"sv, "an old GGJT file (before GGUF); convert the original model again"},
    {"algg"sv, "an old GGLA adapter file (before GGUF)"},
    {"version https://git-lfs"sv, "a git-LFS pointer; fetch the file itself with 'git lfs pull'"},
    {"/annex/objects"sv, "a git-annex pointer; fetch the file itself with 'git annex get'"},
    {"PK\x03\x04"sv, "a zip archive (a PyTorch checkpoint?); convert it to GGUF"},
    {"\x80\x02"sv, "a Python pickle (a PyTorch checkpoint?); convert it to GGUF"},
    {"\x1F\x8B"sv, "gzip data; unpack it first"},
    {"\x28\xB5\x2F\xFD"sv, "zstd data; unpack it first"},
    {"\xFD"
     "7zXZ"sv,
     "xz data; unpack it first"},
    {"7z\xBC\xAF"sv, "a 7z archive; unpack it first"},
    {"\x89HDF"sv, "an HDF5 file; convert it to GGUF"},
    {"\x89PNG"sv, "a PNG picture, not a model"},
    {"\xFF\xD8\xFF"sv, "a JPEG picture, not a model"},
    {"RIFF"sv, "a RIFF file (WebP picture or sound), not a model"},
    {"%PDF"sv, "a PDF document"},
    {"\x7F"
     "ELF"sv,
     "a program (ELF)"},
    {"Entry not found"sv, "a server's 'not found' message; check the address and download again"},
    {"Repository not found"sv, "a server's 'not found' message; check the address and download again"},
    {"Invalid username"sv, "a server's login error; download again with access rights"},
    {"Access to model"sv, "a server's access error; download again with access rights"},
};

bool starts_with_no_case(std::string_view text, std::string_view start) {
  return text.size() >= start.size() && std::equal(start.begin(), start.end(), text.begin(), [](char a, char b) {
           return a == static_cast<char>(std::tolower(static_cast<unsigned char>(b)));
         });
}

// u64 length of a JSON header, then the header.
bool is_safetensors(std::span<const uint8_t> bytes) {
  if (bytes.size() < 10) return false;
  uint64_t length;
  std::memcpy(&length, bytes.data(), sizeof(length));
  return length >= 2 && length <= bytes.size() - 8 && bytes[8] == '{';
}

std::string first_bytes(std::span<const uint8_t> bytes) {
  return quoted({reinterpret_cast<const char*>(bytes.data()), std::min<size_t>(bytes.size(), 16)});
}

}  // namespace

std::string describe_foreign_file(std::span<const uint8_t> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), std::min<size_t>(bytes.size(), 512));
  if (text.empty()) return "an empty file";
  for (const Magic& magic : kMagics) {
    if (text.starts_with(magic.bytes)) return magic.meaning;
  }
  if (is_safetensors(bytes)) return "a safetensors file; convert it to GGUF";
  std::string_view body = text;
  if (body.starts_with("\xEF\xBB\xBF"sv)) body.remove_prefix(3);
  while (!body.empty() && std::isspace(static_cast<unsigned char>(body.front()))) body.remove_prefix(1);
  for (const std::string_view tag : {"<!doctype"sv, "<html"sv, "<head"sv, "<?xml"sv}) {
    if (starts_with_no_case(body, tag))
      return "an HTML page (a login or error page saved as the model?); download again";
  }
  if (body.starts_with('{') || body.starts_with('[')) return "JSON text, not a model";
  if (std::all_of(text.begin(), text.end(), [](char c) { return c == 0; })) {
    return "zero bytes (an unfinished download?); download again";
  }
  return first_bytes(bytes);
}

}  // namespace foveal::gguf
