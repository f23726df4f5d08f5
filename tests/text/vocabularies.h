// Small vocabularies for tests, as GGUF documents in memory.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/core/error.h"
#include "engine/gguf/gguf.h"
#include "engine/text/tokenizer.h"
#include "engine/text/unicode.h"
#include "tests/gguf/writer.h"

namespace vocabularies {

using foveal::Gguf;
using foveal::Tokenizer;
using gguf_writer::Document;

// A document as a tokenizer; its warnings and errors name "test.gguf".
inline std::shared_ptr<const Tokenizer> load(const Document& document) {
  const auto bytes = document.bytes();
  return Tokenizer::load(*Gguf::parse(bytes, "test.gguf"));
}

// GPT-2's spelling of a byte.
inline std::string spell(unsigned char wanted) {
  uint32_t next = 0x100, spelled = 0;
  for (unsigned b = 0; b <= wanted; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    spelled = printable ? b : next++;
  }
  std::string out;
  foveal::append_utf8(out, spelled);
  return out;
}
inline std::string spell(std::string_view text) {
  std::string out;
  for (const char c : text) out += spell(static_cast<unsigned char>(c));
  return out;
}

struct Merge {
  std::string left, right;  // plain bytes
};

// Ids: 0 to 255 the bytes, then the results of `merges`, then `more` as they are, with their types.
struct Bpe {
  std::vector<Merge> merges;
  std::vector<std::pair<std::string, int32_t>> more;
  std::string pre = "gpt-2";

  Document document() const {
    std::vector<std::string> tokens, lines;
    for (int b = 0; b < 256; ++b) tokens.push_back(spell(static_cast<unsigned char>(b)));
    for (const Merge& m : merges) {
      tokens.push_back(spell(m.left + m.right));
      lines.push_back(spell(m.left) + " " + spell(m.right));
    }
    std::vector<int32_t> types(tokens.size(), 1);
    for (const auto& [text, type] : more) {
      tokens.push_back(text);
      types.push_back(type);
    }
    Document d;
    d.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", pre).strings("tokenizer.ggml.tokens", tokens);
    d.array("tokenizer.ggml.token_type", gguf_writer::I32, types).strings("tokenizer.ggml.merges", lines);
    return d;
  }
  int32_t extra(size_t i) const { return static_cast<int32_t>(256 + merges.size() + i); }  // id of more[i]
};

// Ids: 0 <unk>, 1 <s>, 2 </s>, 3 to 258 the bytes, then `pieces` with their types and scores.
struct Spm {
  struct Piece {
    std::string text;
    float score;
    int32_t type = 1;
  };
  std::vector<Piece> pieces;

  Document document() const {
    std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
    std::vector<int32_t> types = {2, 3, 3};
    const char* hex = "0123456789ABCDEF";
    for (int b = 0; b < 256; ++b) {
      tokens.push_back(std::string("<0x") + hex[b / 16] + hex[b % 16] + ">");
      types.push_back(6);
    }
    std::vector<float> scores(tokens.size(), 0);
    for (const Piece& p : pieces) {
      tokens.push_back(p.text);
      scores.push_back(p.score);
      types.push_back(p.type);
    }
    Document d;
    d.string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", tokens);
    d.array("tokenizer.ggml.scores", gguf_writer::F32, scores);
    d.array("tokenizer.ggml.token_type", gguf_writer::I32, types);
    return d;
  }
  static constexpr int32_t first = 259;  // id of pieces[0]
};

}  // namespace vocabularies
