// Tensor descriptions of one file: every size in checked arithmetic, every tensor exactly where the one before ends
// and inside the real file, before any byte of it is used.
#include <algorithm>
#include <limits>

#include "engine/core/checked.h"
#include "engine/gguf/cursor.h"
#include "engine/gguf/part.h"

namespace foveal::gguf {

namespace {

constexpr uint64_t kMaxNameBytes = 63;
constexpr uint32_t kMaxDims = 4;
constexpr uint64_t kDefaultAlignment = 32, kMaxAlignment = 65536;

uint64_t alignment_of(const Part& part) {
  const Entry* entry = part.find("general.alignment");
  if (!entry) return kDefaultAlignment;
  int64_t value = 0;
  const bool right_type = !entry->is_array && entry->type == ValueType::u32;
  if (!right_type || !read_int(*entry, 0, 1, kMaxAlignment, value) || (value & (value - 1)) != 0) {
    fail(ErrorCode::file_format, at_offset(part.file, entry->offset),
         "key 'general.alignment': expected a u32, a power ", "of two from 1 to ", kMaxAlignment, ", found ",
         describe_found(*entry));
  }
  return static_cast<uint64_t>(value);
}

std::string_view read_name(Cursor& cursor) {
  cursor.set_subject("");
  const uint64_t at = cursor.position();
  const std::string_view name = cursor.read_string("a tensor name");
  if (name.empty() || name.size() > kMaxNameBytes) {
    cursor.reject(ErrorCode::file_format, at, "a tensor name of ", name.size(), " bytes, expected 1 to ",
                  kMaxNameBytes);
  }
  if (!is_clean_utf8(name)) {
    cursor.reject(ErrorCode::file_format, at, "tensor name ", quoted(name), " is not UTF-8 text without NUL");
  }
  return name;
}

std::vector<int64_t> read_shape(Cursor& cursor) {
  const uint64_t at = cursor.position();
  const auto n_dims = cursor.read<uint32_t>("the number of dimensions");
  if (n_dims < 1 || n_dims > kMaxDims) {
    cursor.reject(ErrorCode::file_format, at, n_dims, " dimensions, expected 1 to ", kMaxDims);
  }
  std::vector<int64_t> ne(n_dims);
  uint64_t product = 1;
  for (int64_t& n : ne) {
    const uint64_t here = cursor.position();
    n = cursor.read<int64_t>("a dimension");
    if (n < 1) cursor.reject(ErrorCode::file_format, here, "a dimension of ", n, ", expected at least 1");
    const auto next = checked_mul(product, static_cast<uint64_t>(n));
    if (!next || *next > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      cursor.reject(ErrorCode::file_format, here, "a dimension of ", n, " makes the number of elements overflow");
    }
    product = *next;
  }
  return ne;
}

std::string readable_types() {
  constexpr int32_t kLastId = 63;
  std::string out;
  for (int32_t id = 0; id <= kLastId; ++id) {
    if (const TypeTraits* traits = type_traits(id)) out += cat(out.empty() ? "" : ", ", traits->name);
  }
  return out;
}

TensorType read_type(Cursor& cursor) {
  const uint64_t at = cursor.position();
  const auto id = cursor.read<int32_t>("the tensor's type");
  if (!type_traits(id)) {
    cursor.reject(ErrorCode::unsupported, at, "tensor type ", ggml_type_name(id), " (id ", id,
                  ") is not read by this engine, expected one of ", readable_types());
  }
  return static_cast<TensorType>(id);
}

// Bytes of the whole tensor; its rows are whole blocks.
uint64_t tensor_bytes(const Cursor& cursor, uint64_t at, const TensorInfo& t) {
  const TypeTraits& traits = traits_of(t.type);
  if (t.ne[0] % traits.block_elements != 0) {
    cursor.reject(ErrorCode::file_format, at, "a row of ", t.ne[0], " elements, expected a multiple of the ",
                  traits.block_elements, " of a block of ", traits.name);
  }
  uint64_t elements = 1;  // read_shape has seen that the product doesn't wrap
  for (const int64_t n : t.ne) elements *= static_cast<uint64_t>(n);
  const uint64_t blocks = elements / static_cast<uint64_t>(traits.block_elements);
  const auto bytes = checked_mul(blocks, static_cast<uint64_t>(traits.block_bytes));
  if (!bytes)
    cursor.reject(ErrorCode::file_format, at, "shape ", t.shape(), " of ", traits.name, ": the size overflows");
  return *bytes;
}

// Where the next tensor must start, relative to the data section.
uint64_t place(const Cursor& cursor, uint64_t at, uint64_t offset, uint64_t expected, uint64_t bytes,
               uint64_t alignment) {
  if (offset != expected) {
    const char* wrong = offset % alignment != 0 ? "not aligned"
                        : offset < expected     ? "overlaps an earlier tensor"
                                                : "leaves a gap";
    cursor.reject(ErrorCode::file_format, at, "data offset ", offset, " ", wrong, ", expected ", expected,
                  " (alignment ", alignment, ")");
  }
  const auto end = checked_add(offset, bytes);
  const auto padded = end ? checked_align(*end, alignment) : std::nullopt;
  if (!padded) cursor.reject(ErrorCode::file_format, at, "the sum of the tensors' sizes overflows");
  return *padded;
}

// Data pointers, once the data section's start is known. Offsets are the running sum of padded sizes.
void attach_data(Part& part, uint64_t data_start, uint64_t alignment) {
  const uint64_t size = part.bytes.size();
  uint64_t offset = 0;  // sums were checked by place()
  for (TensorInfo& t : part.tensors) {
    const auto start = checked_add(data_start, offset);
    const auto end = start ? checked_add(*start, t.bytes) : std::nullopt;
    if (!end || *end > size) {
      fail(ErrorCode::file_format, at_offset(part.file, size), "the file is ", size, " bytes, tensor ", quoted(t.name),
           " ends at ", end ? std::to_string(*end) : std::string("more than 2^64"), ": download incomplete?");
    }
    t.data = part.bytes.data() + *start;
    offset = *checked_align(offset + t.bytes, alignment);
  }
  const uint64_t end = data_start + offset;  // may pass the file's end by less than the last padding
  if (size > end) {
    part.warnings.push_back(cat(part.file, ": ", size - end, " bytes after the end of the last tensor at offset ",
                                hex(end), " are ignored"));
  }
}

void check_names(const Part& part) {
  std::vector<std::string_view> names;
  names.reserve(part.tensors.size());
  for (const TensorInfo& t : part.tensors) names.push_back(t.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) {
    fail(ErrorCode::file_format, part.file, ": tensor ", quoted(*twice), " occurs twice, expected once");
  }
}

}  // namespace

void parse_tensors(Part& part, Cursor& cursor, uint64_t count) {
  const uint64_t alignment = alignment_of(part);
  part.tensors.reserve(static_cast<size_t>(count));
  uint64_t next = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t at = cursor.position();
    TensorInfo t{};
    t.name = read_name(cursor);
    cursor.set_subject(cat("tensor ", quoted(t.name)));
    t.ne = read_shape(cursor);
    t.type = read_type(cursor);
    t.bytes = tensor_bytes(cursor, at, t);
    const uint64_t offset_at = cursor.position();
    next = place(cursor, offset_at, cursor.read<uint64_t>("the data offset"), next, t.bytes, alignment);
    part.tensors.push_back(std::move(t));
  }
  check_names(part);
  const auto data_start = checked_align(cursor.position(), alignment);
  if (!data_start) fail(ErrorCode::file_format, part.file, ": the size of the header overflows");
  attach_data(part, *data_start, alignment);
}

}  // namespace foveal::gguf
