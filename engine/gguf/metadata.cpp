// The typed, ranged accessor of metadata: the only way from a file's values to numbers that the engine uses.
#include <cmath>
#include <limits>

#include "engine/gguf/cursor.h"
#include "engine/gguf/gguf.h"
#include "engine/gguf/impl.h"

namespace foveal {

using gguf::Entry;
using gguf::ValueType;

namespace {

std::string int_range(int64_t min, int64_t max) {
  if (max == std::numeric_limits<int64_t>::max()) return cat("an integer of at least ", min);
  return cat("an integer from ", min, " to ", max);
}

std::string float_range(double min, double max) {
  return cat("a finite number from ", min, " to ", max);
}

bool is_number(ValueType type) {
  return gguf::is_integer(type) || gguf::is_float(type);
}

}  // namespace

void Gguf::Impl::wrong(const Entry& entry, const std::string& expected, const std::string& found) const {
  fail(ErrorCode::file_format, gguf::at_offset(parts[0]->file, entry.offset), "key ", quoted(entry.key), ": expected ",
       expected, ", found ", found);
}

void Gguf::Impl::missing(std::string_view key, const std::string& expected) const {
  fail(ErrorCode::file_format, path, ": key ", quoted(key), " is missing, expected ", expected);
}

const Entry* Gguf::Impl::find_scalar(std::string_view key, const std::string& expected) const {
  const Entry* entry = find(key);
  if (entry && entry->is_array) wrong(*entry, expected, gguf::describe_found(*entry));
  return entry;
}

const Entry* Gguf::Impl::find_array(std::string_view key, const std::string& of, uint64_t min_n, uint64_t max_n) const {
  const Entry* entry = find(key);
  if (!entry) return nullptr;
  if (!entry->is_array || entry->count < min_n || entry->count > max_n) {
    const std::string length = min_n == max_n ? std::to_string(min_n) : cat(min_n, " to ", max_n);
    wrong(*entry, cat("an array of ", length, " ", of), gguf::describe_found(*entry));
  }
  return entry;
}

const std::vector<std::string>& Gguf::Impl::copied_strings(const Entry& entry) const {
  const std::lock_guard lock(copies_mutex);
  const auto [it, fresh] = copies.try_emplace(&entry);
  if (fresh) {
    const auto views = gguf::read_strings(entry);
    it->second.assign(views.begin(), views.end());
  }
  return it->second;
}

bool Gguf::has(std::string_view key) const {
  return impl_->find(key) != nullptr;
}

bool Gguf::is_array(std::string_view key) const {
  const Entry* entry = impl_->find(key);
  return entry && entry->is_array;
}

std::optional<int64_t> Gguf::find_int(std::string_view key, int64_t min, int64_t max) const {
  const Entry* entry = impl_->find_scalar(key, int_range(min, max));
  if (!entry) return std::nullopt;
  int64_t value;
  if (!gguf::read_int(*entry, 0, min, max, value)) {
    impl_->wrong(*entry, int_range(min, max), gguf::describe_found(*entry));
  }
  return value;
}

int64_t Gguf::get_int(std::string_view key, int64_t min, int64_t max) const {
  const auto value = find_int(key, min, max);
  if (!value) impl_->missing(key, int_range(min, max));
  return *value;
}

std::optional<double> Gguf::find_float(std::string_view key, double min, double max) const {
  const Entry* entry = impl_->find_scalar(key, float_range(min, max));
  if (!entry) return std::nullopt;
  const bool number = is_number(entry->type);
  const double value = number ? gguf::read_number(*entry, 0) : 0;
  if (!number || !std::isfinite(value) || value < min || value > max) {
    impl_->wrong(*entry, float_range(min, max), gguf::describe_found(*entry));
  }
  return value;
}

double Gguf::get_float(std::string_view key, double min, double max) const {
  const auto value = find_float(key, min, max);
  if (!value) impl_->missing(key, float_range(min, max));
  return *value;
}

std::optional<bool> Gguf::find_bool(std::string_view key) const {
  const Entry* entry = impl_->find_scalar(key, "a bool");
  if (!entry) return std::nullopt;
  if (entry->type != ValueType::boolean) impl_->wrong(*entry, "a bool", gguf::describe_found(*entry));
  return gguf::read_bool(*entry, 0);
}

const std::string* Gguf::find_string(std::string_view key) const {
  const Entry* entry = impl_->find_scalar(key, "a string");
  if (!entry) return nullptr;
  if (entry->type != ValueType::string) impl_->wrong(*entry, "a string", gguf::describe_found(*entry));
  return impl_->copied_strings(*entry).data();
}

const std::string& Gguf::get_string(std::string_view key) const {
  const std::string* text = find_string(key);
  if (!text) impl_->missing(key, "a string");
  return *text;
}

std::optional<std::vector<std::string_view>> Gguf::find_string_views(std::string_view key, uint64_t min_n,
                                                                     uint64_t max_n) const {
  const Entry* entry = impl_->find_array(key, "str", min_n, max_n);
  if (!entry) return std::nullopt;
  if (entry->type != ValueType::string) impl_->wrong(*entry, "an array of str", gguf::describe_found(*entry));
  return gguf::read_strings(*entry);
}

const std::vector<std::string>* Gguf::find_strings(std::string_view key, uint64_t min_n, uint64_t max_n) const {
  const Entry* entry = impl_->find_array(key, "str", min_n, max_n);
  if (!entry) return nullptr;
  if (entry->type != ValueType::string) impl_->wrong(*entry, "an array of str", gguf::describe_found(*entry));
  return &impl_->copied_strings(*entry);
}

std::optional<std::vector<int64_t>> Gguf::find_ints(std::string_view key, uint64_t min_n, uint64_t max_n, int64_t min,
                                                    int64_t max) const {
  const Entry* entry = impl_->find_array(key, "integers", min_n, max_n);
  if (!entry) return std::nullopt;
  if (!gguf::is_integer(entry->type)) impl_->wrong(*entry, "an array of integers", gguf::describe_found(*entry));
  std::vector<int64_t> out(static_cast<size_t>(entry->count));
  for (size_t i = 0; i < out.size(); ++i) {
    if (gguf::read_int(*entry, i, min, max, out[i])) continue;
    impl_->wrong(*entry, int_range(min, max), cat(gguf::describe_element(*entry, i), " at index ", i));
  }
  return out;
}

std::optional<std::vector<float>> Gguf::find_floats(std::string_view key, uint64_t min_n, uint64_t max_n) const {
  const Entry* entry = impl_->find_array(key, "numbers", min_n, max_n);
  if (!entry) return std::nullopt;
  if (!is_number(entry->type)) impl_->wrong(*entry, "an array of numbers", gguf::describe_found(*entry));
  constexpr auto kLargest = static_cast<double>(std::numeric_limits<float>::max());
  std::vector<float> out(static_cast<size_t>(entry->count));
  for (size_t i = 0; i < out.size(); ++i) {
    const double value = gguf::read_number(*entry, i);
    if (!(std::fabs(value) <= kLargest)) {  // also NaN
      impl_->wrong(*entry, "finite numbers", cat(gguf::describe_element(*entry, i), " at index ", i));
    }
    out[i] = static_cast<float>(value);
  }
  return out;
}

std::optional<std::vector<bool>> Gguf::find_bools(std::string_view key, uint64_t min_n, uint64_t max_n) const {
  const Entry* entry = impl_->find_array(key, "bool", min_n, max_n);
  if (!entry) return std::nullopt;
  if (entry->type != ValueType::boolean) impl_->wrong(*entry, "an array of bool", gguf::describe_found(*entry));
  std::vector<bool> out(static_cast<size_t>(entry->count));
  for (size_t i = 0; i < out.size(); ++i) out[i] = gguf::read_bool(*entry, i);
  return out;
}

std::vector<std::pair<std::string, std::string>> Gguf::describe_metadata() const {
  std::vector<std::pair<std::string, std::string>> out;
  out.reserve(impl_->parts[0]->entries.size());
  for (const Entry& entry : impl_->parts[0]->entries) out.emplace_back(entry.key, gguf::printable(entry));
  return out;
}

}  // namespace foveal
