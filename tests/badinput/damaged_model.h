// A whole small model on disk, damaged in one place, opened through the engine's public face; afterwards nothing may be
// left open, and a good model must still load.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "engine/engine.h"
#include "tests/check.h"
#include "tests/models/small_model.h"

namespace badinput {

using foveal::ErrorCode;
using foveal::Model;
using gguf_writer::Bytes;
using gguf_writer::Document;

// A new directory, removed at the end.
struct Folder {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("foveal-badinput-" + std::to_string(::getpid()));
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string write(const std::string& name, const Bytes& bytes) const {
    const std::string file = (path / name).string();
    std::ofstream(file, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return file;
  }
};
inline const Folder& folder() {
  static const Folder one;
  return one;
}

// A SentencePiece vocabulary of 40 words in a two-layer model.
inline Document good_model(const SmallModel& shape = {}) {
  Document d = shape.document();
  std::vector<std::string> tokens{"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types{2, 3, 3};
  for (const char c : std::string_view("abcdefghijklmnopqrstuvwxyz0123456789")) {
    tokens.push_back(std::string(1, c));
    types.push_back(1);
  }
  tokens.push_back("\xE2\x96\x81");
  types.push_back(1);
  d.string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", tokens);
  d.array("tokenizer.ggml.token_type", gguf_writer::I32, types);
  d.array("tokenizer.ggml.scores", gguf_writer::F32, std::vector<float>(tokens.size(), -1.0f));
  d.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
  return d;
}

inline std::shared_ptr<const Model> load(const std::string& path) {
  foveal::ModelOptions options;
  options.threads = 1;
  return Model::load(path, options);
}

// Open descriptors, and mappings of files in the test's directory.
struct Held {
  size_t descriptors = 0, mappings = 0;
  bool operator==(const Held&) const = default;
};
inline Held held() {
  Held h;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++h.descriptors;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) h.mappings += line.find(folder().path.string()) != line.npos;
  return h;
}

// Answers a prompt: the good call that ends each row.
inline void expect_good_call(const char* name) {
  static const std::string path = folder().write("good.gguf", good_model().bytes());
  try {
    const auto session = load(path)->session({}, 64);
    const std::vector<foveal::Part> prompt{foveal::TextPiece{"abc", false}};
    session->prefill(prompt);
    if (session->logits().size() != 40) check::failed(name, 0, "the good call gave no logits");
  } catch (const std::exception& e) {
    check::failed(name, 0, std::string("the good call after it failed: ") + e.what());
  }
}

// `path` must be refused with this class and a message that names the file and holds `message`.
inline void expect_refused(int row, const char* name, const std::string& path, ErrorCode code,
                           const std::string& message) {
  const Held before = held();
  std::string found = "no error";
  bool right = false;
  try {
    load(path);
  } catch (const foveal::Error& e) {
    found = e.what();
    const bool names_file = found.find(path) == 0 || found.find(folder().path.string()) != std::string::npos;
    right = e.code() == code && names_file && found.find(message) != std::string::npos;
  } catch (const std::exception& e) {
    found = std::string("not a foveal::Error: ") + e.what();
  }
  if (!right) check::failed(name, row, "expected '" + message + "', found '" + found + "'");
  if (!(held() == before)) check::failed(name, row, "a descriptor or a mapping is left open");
  expect_good_call(name);
}

struct Row {
  int number;  // of the bad-input matrix
  const char* name;
  ErrorCode code;
  const char* message;
  std::function<void(Document&)> change;  // of the good model
};

inline void run(const std::vector<Row>& rows, const SmallModel& shape = {}) {
  for (const Row& r : rows) {
    Document d = good_model(shape);
    r.change(d);
    expect_refused(r.number, r.name, folder().write("bad.gguf", d.bytes()), r.code, r.message);
  }
}

}  // namespace badinput
