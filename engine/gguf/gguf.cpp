// Opening of files, and the tensors of a Gguf object.
#include "engine/gguf/gguf.h"

#include <algorithm>

#include "engine/gguf/impl.h"
#include "engine/gguf/split.h"

namespace foveal {

using gguf::Part;

namespace {

std::unique_ptr<Part> open_part(const std::string& path) {
  auto part = std::make_unique<Part>();
  part->file = path;
  part->mapping = MappedFile::open(path);
  part->bytes = part->mapping->bytes();
  gguf::parse(*part);
  return part;
}

std::string shape_text(std::span<const int64_t> ne) {
  std::string out = "[";
  for (size_t i = 0; i < ne.size(); ++i) out += (i ? ", " : "") + std::to_string(ne[i]);
  return out + "]";
}

// The part of a shape that counts: trailing 1s say nothing.
std::span<const int64_t> significant(std::span<const int64_t> ne) {
  while (!ne.empty() && ne.back() == 1) ne = ne.first(ne.size() - 1);
  return ne;
}

}  // namespace

int64_t TensorInfo::rows() const {
  int64_t n = 1;  // the reader has seen that the product of all dims fits
  for (size_t i = 1; i < ne.size(); ++i) n *= ne[i];
  return n;
}

std::string TensorInfo::shape() const {
  return shape_text(ne);
}

Gguf::Gguf() : impl_(std::make_unique<Impl>()) {}
Gguf::~Gguf() = default;

std::shared_ptr<const Gguf> Gguf::open(const std::string& path) {
  std::shared_ptr<Gguf> file(new Gguf());
  file->impl_->path = path;
  file->impl_->parts.push_back(open_part(path));
  gguf::open_siblings(file->impl_->parts, open_part);
  file->impl_->join_parts();
  return file;
}

std::shared_ptr<const Gguf> Gguf::parse(std::span<const uint8_t> bytes, const std::string& name) {
  std::shared_ptr<Gguf> file(new Gguf());
  file->impl_->path = name;
  auto part = std::make_unique<Part>();
  part->file = name;
  part->bytes = bytes;
  gguf::parse(*part);
  file->impl_->parts.push_back(std::move(part));
  gguf::open_siblings(file->impl_->parts, [&](const std::string& path) -> std::unique_ptr<Part> {
    fail(ErrorCode::io, path, ": a split model can't be read from memory");
  });
  file->impl_->join_parts();
  return file;
}

void Gguf::Impl::join_parts() {
  for (auto& part : parts) {
    tensors.insert(tensors.end(), std::make_move_iterator(part->tensors.begin()),
                   std::make_move_iterator(part->tensors.end()));
    part->tensors = {};
    warnings.insert(warnings.end(), part->warnings.begin(), part->warnings.end());
  }
  by_name.resize(tensors.size());
  for (size_t i = 0; i < by_name.size(); ++i) by_name[i] = i;
  std::sort(by_name.begin(), by_name.end(), [&](size_t a, size_t b) { return tensors[a].name < tensors[b].name; });
  const auto same = [&](size_t a, size_t b) { return tensors[a].name == tensors[b].name; };
  const auto twice = std::adjacent_find(by_name.begin(), by_name.end(), same);
  if (twice != by_name.end()) {
    fail(ErrorCode::file_format, path, ": tensor ", quoted(tensors[*twice].name),
         " occurs in two parts of the split model, expected in one");
  }
}

const std::string& Gguf::path() const {
  return impl_->path;
}
uint32_t Gguf::version() const {
  return impl_->parts[0]->version;
}
const std::vector<std::string>& Gguf::warnings() const {
  return impl_->warnings;
}
const std::vector<TensorInfo>& Gguf::tensors() const {
  return impl_->tensors;
}

uint64_t Gguf::file_bytes() const {
  uint64_t sum = 0;
  for (const auto& part : impl_->parts) sum += part->bytes.size();
  return sum;
}

const TensorInfo* Gguf::find_tensor(std::string_view name) const {
  const auto& all = impl_->tensors;
  const auto before = [&](size_t i, std::string_view n) { return all[i].name < n; };
  const auto it = std::lower_bound(impl_->by_name.begin(), impl_->by_name.end(), name, before);
  return it != impl_->by_name.end() && all[*it].name == name ? &all[*it] : nullptr;
}

const TensorInfo& Gguf::tensor(std::string_view name) const {
  const TensorInfo* t = find_tensor(name);
  if (!t) fail(ErrorCode::file_format, impl_->path, ": tensor ", quoted(name), " is missing");
  return *t;
}

const TensorInfo& Gguf::tensor(std::string_view name, std::initializer_list<int64_t> ne) const {
  const std::span<const int64_t> wanted(ne.begin(), ne.size());
  const TensorInfo* t = find_tensor(name);
  if (!t) {
    fail(ErrorCode::file_format, impl_->path, ": tensor ", quoted(name), " of shape ", shape_text(wanted),
         " is missing");
  }
  if (!std::ranges::equal(significant(t->ne), significant(wanted))) {
    fail(ErrorCode::file_format, impl_->path, ": tensor ", quoted(name), ": expected shape ", shape_text(wanted),
         ", found ", t->shape());
  }
  return *t;
}

}  // namespace foveal
