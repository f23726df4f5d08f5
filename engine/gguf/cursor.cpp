// Bounds of every read, and the wording of a file that ends too early.
#include "engine/gguf/cursor.h"

namespace foveal::gguf {

std::string hex(uint64_t value) {
  std::ostringstream out;
  out << "0x" << std::hex << value;
  return out.str();
}

std::string at_offset(const std::string& file, uint64_t offset) {
  return cat(file, ": at offset ", hex(offset), ": ");
}

bool is_clean_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i]);
    if (lead == 0) return false;
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const unsigned extra = lead >= 0xC2 && lead <= 0xDF   ? 1
                           : (lead & 0xF0) == 0xE0        ? 2
                           : lead >= 0xF0 && lead <= 0xF4 ? 3
                                                          : 0;
    if (extra == 0 || text.size() - i <= extra) return false;
    uint32_t point = lead & (0x3Fu >> extra);
    for (unsigned k = 1; k <= extra; ++k) {
      const auto byte = static_cast<unsigned char>(text[i + k]);
      if ((byte & 0xC0) != 0x80) return false;
      point = (point << 6) | (byte & 0x3Fu);
    }
    const uint32_t least = extra == 1 ? 0x80 : extra == 2 ? 0x800 : 0x10000;
    if (point < least || point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF)) return false;
    i += extra + 1;
  }
  return true;
}

std::string_view Cursor::read_string(const char* what) {
  const uint64_t start = position_;
  const auto length = read<uint64_t>(what);
  if (length > left()) {
    reject(ErrorCode::file_format, start, what, " is ", length, " bytes long, but only ", left(),
           " bytes are left in the file of ", bytes_.size(), " bytes: download incomplete?");
  }
  const std::string_view text(reinterpret_cast<const char*>(here()), static_cast<size_t>(length));
  position_ += length;
  return text;
}

void Cursor::skip(uint64_t count, uint64_t bytes_each, const char* what) {
  if (count > left() / bytes_each) {
    reject(ErrorCode::file_format, position_, what, " has ", count, " elements of at least ", bytes_each,
           " bytes, but only ", left(), " bytes are left in the file of ", bytes_.size(),
           " bytes: download incomplete?");
  }
  position_ += count * bytes_each;
}

void Cursor::truncated(uint64_t count, const char* what) const {
  reject(ErrorCode::file_format, position_, "expected ", count, " bytes of ", what, ", found ", left(),
         ": the file ends at ", bytes_.size(), " bytes, download incomplete?");
}

}  // namespace foveal::gguf
