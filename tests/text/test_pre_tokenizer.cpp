// The split patterns, by name, on strings whose pieces the published patterns give.
#include "engine/text/pre_tokenizer.h"

#include <random>

#include "tests/check.h"

using namespace foveal;

namespace {

std::string split(std::string_view name, std::string_view text) {
  const PreTokenizer* pre = find_pre_tokenizer(name);
  if (pre == nullptr) return "unknown name";
  std::string out;
  split_words(pre->stages, text, [&](std::string_view piece) { (out += piece) += '|'; });
  return out;
}

}  // namespace

TEST(names_and_flags) {
  for (const char* name : {"default",          "gpt-2",        "phi-2",   "mpt",       "olmo",   "granite-docling",
                           "smollm",           "starcoder",    "refact",  "command-r", "exaone", "llama-bpe",
                           "llama3",           "llama-v3",     "pixtral", "falcon3",   "lfm2",   "qwen2",
                           "deepseek-r1-qwen", "megrez",       "qwen35",  "tekken",    "gpt-4o", "llama4",
                           "deepseek-v3",      "hunyuan-dense"})
    CHECK(find_pre_tokenizer(name) != nullptr);
  for (const char* name : {"", " ", "qwen", "llama", "gpt-2 phi-2", "tekken "})
    CHECK(find_pre_tokenizer(name) == nullptr);
  CHECK(find_pre_tokenizer("qwen2")->nfc && !find_pre_tokenizer("qwen2")->ignore_merges);
  CHECK(find_pre_tokenizer("llama-bpe")->ignore_merges && find_pre_tokenizer("llama-bpe")->add_bos);
  CHECK(find_pre_tokenizer("tekken")->ignore_merges && find_pre_tokenizer("tekken")->add_bos);
  CHECK(!find_pre_tokenizer("smollm")->add_bos && !find_pre_tokenizer("smollm")->nfc);
}

TEST(digits) {
  CHECK_EQ(split("gpt-2", "a 12345"), "a| 12345|");
  CHECK_EQ(split("smollm", "a 123"), "a| |1|2|3|");
  CHECK_EQ(split("llama-bpe", "a 12345"), "a| |123|45|");
  CHECK_EQ(split("qwen2", "a 12"), "a| |1|2|");
  CHECK_EQ(split("tekken", "12"), "1|2|");
  CHECK_EQ(split("gpt-4o", "1234"), "123|4|");
  CHECK_EQ(split("default", "a 12345"), "a| |123|45|");
  CHECK_EQ(split("default",
                 "1\xD9\xA1"
                 "2345"),
           "1\xD9\xA1"
           "|234|5|");  // Arabic digit: a number, no ASCII digit
  CHECK_EQ(split("deepseek-v3", "12345"), "123|45|");
}

TEST(white_space) {
  CHECK_EQ(split("gpt-2", "a   b \n\n c"), "a|  | b| \n\n| c|");
  CHECK_EQ(split("llama-bpe", "a  \n \n  b"), "a|  \n \n| | b|");
  CHECK_EQ(split("llama-bpe", "a   "), "a|   |");
  CHECK_EQ(split("llama-bpe", "\t\tx"), "\t|\tx|");  // any one character may stand before letters
  CHECK_EQ(split("gpt-2", "\t\tx"), "\t|\t|x|");
  CHECK_EQ(split("smollm", "  1"), "  |1|");  // the digits are cut out first
  CHECK_EQ(split("qwen2", "x\xE3\x80\x80\xE3\x80\x80y"), "x|\xE3\x80\x80|\xE3\x80\x80y|");
  CHECK_EQ(split("llama-bpe", "a\r\n\r\nb"), "a|\r\n\r\n|b|");
  CHECK_EQ(split("llama-bpe", "!\n\n b"), "!\n\n| b|");  // symbols take newlines
}

TEST(contractions_and_words) {
  CHECK_EQ(split("gpt-2", "we'll WE'LL"), "we|'ll| WE|'|LL|");
  CHECK_EQ(split("llama-bpe", "we'll WE'LL"), "we|'ll| WE|'LL|");
  CHECK_EQ(split("qwen2", "it'\xC5\xBF"), "it|'\xC5\xBF|");  // long s folds to s
  CHECK_EQ(split("gpt-4o", "don't DON'T"), "don't| DON'T|");
  CHECK_EQ(split("llama-bpe", "(foo)"), "(foo|)|");
  CHECK_EQ(split("tekken", "HTTPServer camelCase"), "HTTPServer| camel|Case|");
  CHECK_EQ(split("tekken", "a/b//\nc"), "a|/b|//\n|c|");
  CHECK_EQ(split("tekken", "\xD0\x9F\xD0\xA0\xD0\xB8\xD0\xB2\xD0\x95\xD0\xA2"),  // Cyrillic case counts
           "\xD0\x9F\xD0\xA0\xD0\xB8\xD0\xB2|\xD0\x95\xD0\xA2|");
  CHECK_EQ(split("tekken",
                 "\xE4\xBD\xA0"
                 "AB"),
           "\xE4\xBD\xA0|AB|");  // upper* gives back what lower+ needs
  CHECK_EQ(split("qwen35", "e\xCC\x81x"), "e\xCC\x81x|");
  CHECK_EQ(split("qwen2", "e\xCC\x81x"), "e|\xCC\x81x|");
  CHECK_EQ(split("deepseek-v3",
                 "a\xE4\xBD\xA0"
                 "b.c!"),
           "a|\xE4\xBD\xA0|b|.c|!|");
  CHECK_EQ(split("default", "$a.b"), "$|a|.|b|");
}

TEST(pieces_are_the_text_whatever_the_bytes) {
  std::mt19937 random(1);
  for (const char* name :
       {"default", "gpt-2", "smollm", "llama-bpe", "qwen2", "qwen35", "tekken", "gpt-4o", "deepseek-v3"}) {
    const auto stages = find_pre_tokenizer(name)->stages;
    for (int round = 0; round < 2000; ++round) {
      std::string text;
      for (unsigned i = 0; i < random() % 40; ++i)
        text += random() % 3 == 0 ? " \n'1aA\xE4\xBD\xA0"[random() % 9] : static_cast<char>(random());
      std::string back;
      bool empty = false;
      split_words(stages, text, [&](std::string_view piece) {
        back += piece;
        empty |= piece.empty();
      });
      CHECK(back == text && !empty);
    }
  }
}
