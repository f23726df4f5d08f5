// Fuzz target: a damaged vocabulary file, then text through it; or any text through good vocabularies, where it must
// come back as it was and never hold a control token.
#include <algorithm>

#include "engine/text/chat.h"
#include "engine/text/tokenizer.h"
#include "tests/fuzz/fixtures.h"

namespace {

using foveal::Tokenizer;

constexpr const char* kKeys[] = {"tokenizer.ggml.model",
                                 "tokenizer.ggml.pre",
                                 "tokenizer.ggml.tokens",
                                 "tokenizer.ggml.scores",
                                 "tokenizer.ggml.token_type",
                                 "tokenizer.ggml.merges",
                                 "tokenizer.ggml.bos_token_id",
                                 "tokenizer.ggml.eos_token_id",
                                 "tokenizer.ggml.eot_token_id",
                                 "tokenizer.ggml.unknown_token_id",
                                 "tokenizer.ggml.padding_token_id",
                                 "tokenizer.ggml.add_bos_token",
                                 "tokenizer.ggml.add_space_prefix",
                                 "tokenizer.ggml.suppress_tokens",
                                 "tokenizer.chat_template"};

constexpr const char* kTexts[] = {"",
                                  "Hello, world! 12345 it's",
                                  "<|im_start|>user\n<|im_end|><s></s>[INST]<start_of_turn>",
                                  "  \n\n\t spaces   ",
                                  "\xC3\xA9\xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\xA6\x8A\xE2\x80\x8D\xF0\x9F\x94\xA5",
                                  "\xFF\xFE\x80 broken \xE2\x82"};

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// User text: ids in range, no control tokens.
std::vector<int32_t> encode_user(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<int32_t> ids = tokenizer.encode(text, false);
  for (const int32_t id : ids) FUZZ_REQUIRE(id >= 0 && id < tokenizer.n_vocab() && !tokenizer.is_control(id));
  return ids;
}

void stream(const std::shared_ptr<const Tokenizer>& tokenizer, const std::vector<int32_t>& ids) {
  foveal::StreamDecoder decoder(tokenizer);
  for (const int32_t id : ids) decoder.push(id);
  decoder.finish();
}

// A vocabulary that loads at all must serve every text, or refuse it with an error.
void use_vocabulary(std::span<const uint8_t> bytes) {
  const auto file = foveal::Gguf::parse(bytes, "fuzz.gguf");
  try {
    foveal::detect_chat_template(*file, "");
  } catch (const foveal::Error&) {
  }
  const auto tokenizer = Tokenizer::load(*file);
  ++fuzz::accepted;
  for (const char* text : kTexts) {
    try {
      const auto ids = encode_user(*tokenizer, text);
      tokenizer->decode(ids);
      stream(tokenizer, ids);
      stream(tokenizer, tokenizer->encode(text, true));
    } catch (const foveal::Error& error) {
      FUZZ_REQUIRE(error.code() == foveal::ErrorCode::invalid_argument);
    }
  }
}

const std::vector<fuzz::Document>& seeds() {
  static const std::vector<fuzz::Document> all = [] {
    std::vector<fuzz::Document> out;
    for (const char* family : {"text_llama", "text_mistral", "qwen2vl", "gemma3", "smolvlm"}) {
      out.push_back(fuzz::header_of(family));
    }
    return out;
  }();
  return all;
}

const std::vector<std::shared_ptr<const Tokenizer>>& good_tokenizers() {
  static const std::vector<std::shared_ptr<const Tokenizer>> all = [] {
    std::vector<std::shared_ptr<const Tokenizer>> out;
    for (const fuzz::Document& seed : seeds()) {
      const auto bytes = seed.bytes();
      out.push_back(Tokenizer::load(*foveal::Gguf::parse(bytes, "seed.gguf")));
    }
    return out;
  }();
  return all;
}

// decode(encode(text)) is the text for ASCII; for the rest (normal forms, SPM's space mark) it is a fixed point.
void use_text(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = encode_user(tokenizer, text);
  const std::string back = tokenizer.decode(ids);
  if (is_ascii(text)) FUZZ_REQUIRE(back == text);
  FUZZ_REQUIRE(tokenizer.decode(encode_user(tokenizer, back)) == back);
  tokenizer.encode(text, true);
}

}  // namespace

// Reads the fixtures before the first run is timed.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  good_tokenizers();
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  fuzz::Random random(seed);
  const bool is_file = size >= 4 && std::equal(data, data + 4, "GGUF");
  if (random.one_in(is_file ? 16 : 2)) {  // a text
    std::string text(is_file ? ""
                             : std::string_view(reinterpret_cast<const char*>(data), std::min<size_t>(size, 2000)));
    for (uint64_t n = 1 + random.below(6); n > 0; --n) {
      const size_t at = random.below(text.size() + 1);
      switch (random.below(5)) {
        case 0:
          text.insert(at, random.pick(kTexts));
          break;
        case 1:
          text.insert(at, 1, static_cast<char>(random.below(random.one_in(2) ? 128 : 256)));
          break;
        case 2:
          text.insert(at, random.below(50), static_cast<char>(random.below(128)));
          break;
        case 3:
          text.erase(at, random.below(20));
          break;
        default:
          text.resize(random.below(text.size() + 1));
      }
    }
    if (text.starts_with("GGUF")) text.clear();
    size = std::min(text.size(), max_size);
    std::copy_n(text.begin(), size, data);
    return size;
  }
  return fuzz::mutate_file(data, size, max_size, seed, seeds(), kKeys);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    if (size >= 4 && std::equal(data, data + 4, "GGUF")) {
      use_vocabulary({data, size});
    } else {
      const auto& tokenizers = good_tokenizers();
      use_text(*tokenizers[size % tokenizers.size()], {reinterpret_cast<const char*>(data), size});
      ++fuzz::accepted;
    }
  } catch (const foveal::Error&) {
  }
  return 0;
}
