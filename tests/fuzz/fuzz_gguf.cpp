// Fuzz target: the GGUF reader, and every typed accessor for every key that a file holds.
#include <limits>

#include "engine/gguf/gguf.h"
#include "tests/fuzz/structure.h"

namespace {

using foveal::Gguf;

constexpr int64_t kMin = std::numeric_limits<int64_t>::min(), kMax = std::numeric_limits<int64_t>::max();
constexpr uint64_t kAny = std::numeric_limits<uint64_t>::max();

constexpr const char* kKeys[] = {
    "general.alignment",    "general.architecture", "split.no", "split.count", "split.tensors.count", "t.u8", "a.str",
    "tokenizer.ggml.tokens"};

// Anything but foveal::Error ends the run.
template <class Call>
void allow_errors(Call call) {
  try {
    call();
  } catch (const foveal::Error&) {
  }
}

// Calls the accessor whose number is `choice`: most refuse the key's type, which must end in foveal::Error.
void use_key(const Gguf& file, const std::string& key, uint64_t choice) {
  FUZZ_REQUIRE(file.has(key));
  allow_errors([&] {
    switch (choice % 11) {
      case 0:
        file.get_int(key, kMin, kMax);
        break;
      case 1:
        file.find_int(key, 1, 100);
        break;
      case 2:
        file.get_float(key, -1e30, 1e30);
        break;
      case 3:
        file.find_bool(key);
        break;
      case 4:
        file.get_string(key);
        break;
      case 5:
        file.find_strings(key, 0, kAny);
        break;
      case 6:
        file.find_string_views(key, 0, kAny);
        break;
      case 7:
        file.find_ints(key, 0, kAny, kMin, kMax);
        break;
      case 8:
        file.find_ints(key, 1, 4, 0, 255);
        break;
      case 9:
        file.find_floats(key, 0, kAny);
        break;
      default:
        file.find_bools(key, 0, kAny);
    }
  });
}

// Two accessors a key, other ones for other inputs: throwing all eleven errors each time would be most of the work.
void use_keys(const Gguf& file, size_t size) {
  uint64_t choice = size;
  for (const auto& [key, value] : file.describe_metadata()) {
    use_key(file, key, choice += value.size());
    use_key(file, key, choice += 5 + (file.is_array(key) ? 1 : 0));
  }
}

// Every byte of every tensor lies in the input, and the sizes agree.
void use_tensors(const Gguf& file, const uint8_t* data, size_t size) {
  for (const foveal::TensorInfo& t : file.tensors()) {
    FUZZ_REQUIRE(t.data >= data && t.bytes <= size && static_cast<size_t>(t.data - data) <= size - t.bytes);
    const auto& traits = foveal::traits_of(t.type);
    const auto row = static_cast<uint64_t>(t.cols() / traits.block_elements * traits.block_bytes);
    FUZZ_REQUIRE(t.cols() % traits.block_elements == 0 && row * static_cast<uint64_t>(t.rows()) == t.bytes);
    FUZZ_REQUIRE(file.find_tensor(t.name) == &t && !t.shape().empty());
    allow_errors([&] { file.tensor(t.name, {t.cols(), t.rows()}); });
  }
}

const std::vector<fuzz::Document>& seeds() {
  static const std::vector<fuzz::Document> all = [] {
    fuzz::Document old = gguf_writer::sample();
    old.version = 2;
    fuzz::Document vocab;
    vocab.strings("tokenizer.ggml.tokens", {"a", "b", "ab"})
        .array<float>("tokenizer.ggml.scores", gguf_writer::F32, {0, 1, 2});
    return std::vector<fuzz::Document>{gguf_writer::sample(), old, vocab};
  }();
  return all;
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return fuzz::mutate_file(data, size, max_size, seed, seeds(), kKeys);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::shared_ptr<const Gguf> file;
  try {
    file = Gguf::parse({data, size}, "fuzz-00001-of-00003.gguf");
  } catch (const foveal::Error&) {
    return 0;
  }
  ++fuzz::accepted;
  use_keys(*file, size);
  use_tensors(*file, data, size);
  return 0;
}
