// See structure.h.
#include "tests/fuzz/structure.h"

namespace fuzz {

uint64_t accepted = 0;

using gguf_writer::KeyValue;
using gguf_writer::put;
using gguf_writer::Tensor;

namespace {

// Reads that may fail.
struct Input {
  std::span<const uint8_t> bytes;
  size_t at = 0;
  bool ok = true;

  template <class T>
  T get() {
    T value{};
    if (bytes.size() - at < sizeof(T)) {
      ok = false;
      return value;
    }
    std::memcpy(&value, bytes.data() + at, sizeof(T));
    at += sizeof(T);
    return value;
  }
  Bytes take(uint64_t n) {
    if (n > bytes.size() - at) ok = false;
    if (!ok) return {};
    at += n;
    return Bytes(bytes.begin() + static_cast<std::ptrdiff_t>(at - n), bytes.begin() + static_cast<std::ptrdiff_t>(at));
  }
  std::string text() {
    const Bytes raw = take(get<uint64_t>());
    return std::string(raw.begin(), raw.end());
  }
};

constexpr uint64_t kWidth[13] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};

// The value's bytes, from the type on.
Bytes take_value(Input& in, int32_t type) {
  const size_t start = in.at;
  uint64_t count = 1;
  if (type == gguf_writer::ARR) {
    type = in.get<int32_t>();
    count = in.get<uint64_t>();
  }
  if (type < 0 || type > 12 || type == gguf_writer::ARR || count > in.bytes.size()) in.ok = false;
  if (in.ok && type == gguf_writer::STR) {
    for (uint64_t i = 0; i < count && in.ok; ++i) in.text();
  } else if (in.ok) {
    in.take(count * kWidth[type]);
  }
  return in.ok ? Bytes(in.bytes.begin() + static_cast<std::ptrdiff_t>(start),
                       in.bytes.begin() + static_cast<std::ptrdiff_t>(in.at))
               : Bytes();
}

void flip(Bytes& bytes, Random& random) {
  if (!bytes.empty()) random.pick(bytes) ^= static_cast<uint8_t>(1u << random.below(8));
}

// A random value of any type for an entry.
void set_value(KeyValue& entry, Random& random) {
  static const char* texts[] = {"",        "llama", "gpt2",  "qwen2vl",     "qwen2vl_merger",
                                "default", "clip",  "a\xFF", "\xE2\x96\x81"};
  entry.value.clear();
  const bool array = random.one_in(3);
  int32_t type = static_cast<int32_t>(random.below(13));
  if (type == gguf_writer::ARR) type = gguf_writer::I32;
  entry.type = array ? static_cast<int32_t>(gguf_writer::ARR) : type;
  const uint64_t n = array ? random.below(6) : 1;
  if (array) {
    put(entry.value, type);
    put<uint64_t>(entry.value, random.one_in(20) ? random.interesting() : n);
  }
  for (uint64_t i = 0; i < n; ++i) {
    if (type == gguf_writer::STR) {
      gguf_writer::put_string(entry.value, random.pick(texts));
    } else if (type == gguf_writer::F32) {
      put<float>(entry.value, static_cast<float>(static_cast<int64_t>(random.interesting())) * 0.25f);
    } else {
      Bytes raw;
      put<uint64_t>(raw, random.interesting());
      entry.value.insert(entry.value.end(), raw.begin(), raw.begin() + static_cast<std::ptrdiff_t>(kWidth[type]));
    }
  }
}

// A number that may well be as legal as the old one.
uint64_t nearby(uint64_t value, Random& random) {
  switch (random.below(4)) {
    case 0:
      return value + 1;
    case 1:
      return value - 1;
    case 2:
      return value * 2;
    default:
      return value / 2;
  }
}

// Another number in place of the old one, of the same width.
void set_number(KeyValue& entry, Random& random) {
  size_t at = 0, width = entry.type >= 0 && entry.type < 13 ? kWidth[entry.type] : 0;
  if (entry.type == gguf_writer::ARR && entry.value.size() > 12) {
    const int32_t type = entry.value[0];
    width = type < 13 ? kWidth[type] : 0;
    if (width == 0) return;
    at = 12 + random.below((entry.value.size() - 12) / width) * width;
  }
  if (at + width > entry.value.size()) return;
  uint64_t value = 0;
  std::memcpy(&value, entry.value.data() + at, width);
  value = random.one_in(2) ? nearby(value, random) : random.interesting();
  std::memcpy(entry.value.data() + at, &value, width);
}

// A shorter or longer array: elements of fixed width only.
void resize_array(KeyValue& entry, Random& random) {
  if (entry.type != gguf_writer::ARR || entry.value.size() < 12) return set_value(entry, random);
  const int32_t type = entry.value[0];
  const uint64_t count = random.below(40);
  if (type == gguf_writer::STR) {
    Bytes value;
    put(value, type);
    put(value, count);
    for (uint64_t i = 0; i < count; ++i) gguf_writer::put_string(value, std::string(random.below(4), 'a' + i % 26));
    entry.value = value;
  } else if (type < 13) {
    entry.value.resize(12 + count * kWidth[type], 1);
    std::memcpy(entry.value.data() + 4, &count, sizeof(count));
  }
}

void mutate_entry(Document& d, Random& random, std::span<const char* const> keys) {
  if (d.entries.empty() || random.one_in(6)) {
    KeyValue fresh;
    fresh.key = keys.empty() ? "general.alignment" : random.pick(keys);
    std::erase_if(d.entries, [&](const KeyValue& e) { return e.key == fresh.key && !random.one_in(20); });
    set_value(fresh, random);
    d.entries.push_back(fresh);
    return;
  }
  const size_t i = random.below(d.entries.size());
  KeyValue& entry = d.entries[i];
  switch (random.below(11)) {
    case 0:
      set_value(entry, random);
      break;
    case 1:
    case 2:
    case 3:
      set_number(entry, random);
      break;
    case 4:
    case 5:
      resize_array(entry, random);
      break;
    case 6:
      flip(entry.value, random);
      break;
    case 7:
      entry.key = keys.empty() ? "x" : random.pick(keys);
      break;
    case 8:
      entry.type = static_cast<int32_t>(random.one_in(4) ? random.interesting() : random.below(14));
      break;
    case 9:
      d.entries.erase(d.entries.begin() + static_cast<std::ptrdiff_t>(i));
      break;
    default:
      if (random.one_in(3)) {
        entry.key_length = random.interesting();
      } else if (!entry.key.empty()) {
        random.pick(entry.key) = static_cast<char>(random.below(256));
      }
  }
}

// Makes the data as long as type and shape say, when that's little.
void refill(Tensor& t) {
  static const struct {
    uint64_t elements, bytes;
  } blocks[] = {{1, 4},   {1, 2}, {32, 18},  {32, 20},   {0, 0},     {0, 0},     {32, 22},  {32, 24},
                {32, 34}, {0, 0}, {256, 84}, {256, 110}, {256, 144}, {256, 176}, {256, 210}};
  if (t.type < 0 || t.type >= static_cast<int32_t>(std::size(blocks)) || blocks[t.type].elements == 0) return;
  double elements = 1;
  for (const int64_t n : t.ne) elements *= static_cast<double>(n);
  if (elements < 0 || elements > 8192) return;
  t.data.resize(static_cast<uint64_t>(elements) / blocks[t.type].elements * blocks[t.type].bytes, 1);
}

void mutate_tensor(Document& d, Random& random) {
  if (d.tensors.empty()) {
    d.floats("t", {4});
    return;
  }
  const size_t i = random.below(d.tensors.size());
  Tensor& t = d.tensors[i];
  switch (random.below(12)) {
    case 0:
      d.tensors.erase(d.tensors.begin() + static_cast<std::ptrdiff_t>(i));
      return;
    case 1:
      t.name += 'x';
      return;
    case 2:
      t.name = random.pick(d.tensors).name;
      return;
    case 3:
      std::swap(t.name, random.pick(d.tensors).name);
      return;
    case 4:
      t.n_dims = static_cast<uint32_t>(random.interesting());
      return;
    case 5:
      t.offset = random.interesting();
      return;
    case 6:
      flip(t.data, random);
      return;
    case 7:
      t.type = static_cast<int32_t>(random.one_in(3) ? random.interesting() : random.below(42));
      break;
    case 8:
      t.name_length = random.interesting();
      return;
    case 9:
      if (t.ne.size() < 4) t.ne.push_back(static_cast<int64_t>(1 + random.below(3)));
      break;
    default:
      if (!t.ne.empty()) {
        random.pick(t.ne) = static_cast<int64_t>(random.one_in(2) ? random.interesting() : 1 + random.below(300));
      }
  }
  if (!random.one_in(4)) refill(t);
}

void mutate_header(Document& d, Random& random) {
  switch (random.below(5)) {
    case 0:
      d.version = static_cast<uint32_t>(random.one_in(2) ? random.interesting() : 2);
      break;
    case 1:
      d.n_tensors = random.interesting();
      break;
    case 2:
      d.n_entries = random.interesting();
      break;
    case 3:
      random.pick(d.magic) = static_cast<char>(random.below(256));
      break;
    default: {
      const uint64_t power = random.below(random.one_in(8) ? 17 : 8);
      d.alignment = uint64_t{1} << power;
      d.u32("general.alignment", 1u << power);
    }
  }
}

void mutate_bytes(Bytes& bytes, Random& random) {
  for (uint64_t n = 1 + random.below(4); n > 0 && !bytes.empty(); --n) {
    switch (random.below(4)) {
      case 0:
        bytes.resize(random.below(bytes.size() + 1));
        break;
      case 1:
        random.pick(bytes) = static_cast<uint8_t>(random.below(256));
        break;
      case 2:
        bytes.resize(bytes.size() + random.below(100), static_cast<uint8_t>(random.below(256)));
        break;
      default:
        flip(bytes, random);
    }
  }
}

}  // namespace

std::optional<Document> take_apart(std::span<const uint8_t> bytes) {
  Input in{bytes};
  Document d;
  const Bytes magic = in.take(4);
  d.magic.assign(magic.begin(), magic.end());
  d.version = in.get<uint32_t>();
  const auto n_tensors = in.get<uint64_t>();
  const auto n_entries = in.get<uint64_t>();
  if (!in.ok || n_tensors > bytes.size() || n_entries > bytes.size()) return std::nullopt;
  for (uint64_t i = 0; i < n_entries && in.ok; ++i) {
    KeyValue entry;
    entry.key = in.text();
    entry.type = in.get<int32_t>();
    entry.value = take_value(in, entry.type);
    if (entry.key == "general.alignment" && entry.value.size() == 4) {
      uint32_t value;
      std::memcpy(&value, entry.value.data(), sizeof(value));
      if (value != 0 && value <= 65536 && (value & (value - 1)) == 0) d.alignment = value;
    }
    d.entries.push_back(std::move(entry));
  }
  std::vector<uint64_t> offsets;
  for (uint64_t i = 0; i < n_tensors && in.ok; ++i) {
    Tensor t;
    t.name = in.text();
    const auto n_dims = in.get<uint32_t>();
    if (n_dims > 4) return std::nullopt;
    for (uint32_t k = 0; k < n_dims; ++k) t.ne.push_back(in.get<int64_t>());
    t.type = in.get<int32_t>();
    offsets.push_back(in.get<uint64_t>());
    d.tensors.push_back(std::move(t));
  }
  const uint64_t start = (in.at + d.alignment - 1) / d.alignment * d.alignment;
  if (!in.ok || (n_tensors > 0 && start > bytes.size())) return std::nullopt;
  for (size_t i = 0; i < offsets.size(); ++i) {
    const uint64_t end = i + 1 < offsets.size() ? offsets[i + 1] : bytes.size() - start;
    if (offsets[i] > end || end > bytes.size() - start) return std::nullopt;
    in.at = start + offsets[i];
    d.tensors[i].data = in.take(end - offsets[i]);
  }
  return in.ok ? std::optional(d) : std::nullopt;
}

void mutate(Document& document, Random& random, std::span<const char* const> keys) {
  const uint64_t choice = random.below(20);
  if (choice < 11) return mutate_entry(document, random, keys);
  if (choice < 19) return mutate_tensor(document, random);
  mutate_header(document, random);
}

size_t mutate_file(uint8_t* data, size_t size, size_t max_size, unsigned seed, std::span<const Document> seeds,
                   std::span<const char* const> keys) {
  Random random(seed);
  std::optional<Document> document;
  if (!random.one_in(4)) document = take_apart({data, size});
  if (!document) document = random.pick(seeds);
  for (uint64_t n = 1 + random.below(4) / 2; n > 0; --n) mutate(*document, random, keys);
  Bytes bytes = document->bytes();
  if (random.one_in(8)) mutate_bytes(bytes, random);
  const size_t n = std::min(bytes.size(), max_size);
  if (n > 0) std::memcpy(data, bytes.data(), n);
  return n;
}

}  // namespace fuzz
