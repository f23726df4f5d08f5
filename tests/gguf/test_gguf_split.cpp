// Models split over several files: opened by the first, every other checked, and each mistake named.
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "engine/gguf/gguf.h"
#include "tests/check.h"
#include "tests/gguf/writer.h"

using namespace gguf_writer;
using foveal::Error;
using foveal::Gguf;
namespace fs = std::filesystem;

namespace {

// A new directory, removed at the end.
struct Folder {
  fs::path path = fs::temp_directory_path() / foveal::cat("foveal-split-", ::getpid());
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
  std::string write(const std::string& name, const Document& d) const {
    const Bytes bytes = d.bytes();
    std::ofstream out(path / name, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return (path / name).string();
  }
};

// Part `index` of `count`, with one tensor a part.
Document part(uint16_t index, uint16_t count, int32_t tensors = 3) {
  Document d;
  if (index == 0) d.string("general.architecture", "split");
  d.number<uint16_t>("split.no", U16, index).number<uint16_t>("split.count", U16, count);
  d.number<int32_t>("split.tensors.count", I32, tensors);
  d.floats("t" + std::to_string(index), {4}, static_cast<float>(index));
  return d;
}

std::string name_of(int number, int count = 3) {
  return foveal::cat("m-0000", number, "-of-0000", count, ".gguf");
}

// Three good parts.
std::string write_all(const Folder& folder) {
  for (uint16_t i = 1; i < 3; ++i) folder.write(name_of(i + 1), part(i, 3));
  return folder.write(name_of(1), part(0, 3));
}

}  // namespace

TEST(opens_all_parts) {
  const Folder folder;
  const auto file = Gguf::open(write_all(folder));
  CHECK_EQ(file->tensors().size(), 3u);
  for (int i = 0; i < 3; ++i) {
    float value;
    std::memcpy(&value, file->tensor(foveal::cat("t", i), {4}).data, sizeof(value));
    CHECK_EQ(value, static_cast<float>(i));
  }
  CHECK_EQ(file->get_string("general.architecture"), "split");
  CHECK_EQ(file->file_bytes(), part(0, 3).bytes().size() + 2 * part(1, 3).bytes().size());
}

TEST(refuses_what_does_not_belong) {
  const Folder folder;
  const std::string first = write_all(folder);
  const auto with = [&](const std::string& name, const Document& d) {
    write_all(folder);
    return folder.write(name, d);
  };
  CHECK_THROWS(Error, "part 2 of 3 of a split model: open", Gguf::open((folder.path / name_of(2)).string()));
  CHECK_THROWS(Error, "m-00001-of-00003.gguf instead", Gguf::open((folder.path / name_of(2)).string()));
  with(name_of(2), part(2, 3));
  CHECK_THROWS(Error, "m-00002-of-00003.gguf: expected key 'split.no' to be 1, found 2", Gguf::open(first));
  with(name_of(3), part(2, 4));
  CHECK_THROWS(Error, "m-00003-of-00003.gguf: expected key 'split.count' to be 3, found 4", Gguf::open(first));
  with(name_of(3), sample());
  CHECK_THROWS(Error, "expected key 'split.no' to be 2, found none", Gguf::open(first));
  with(name_of(1), part(0, 4));
  CHECK_THROWS(Error, "the name says 3 parts, key 'split.count' says 4", Gguf::open(first));
  with(name_of(1), part(0, 3, 7));
  CHECK_THROWS(Error, "'split.tensors.count' says 7 tensors, the 3 parts hold 3", Gguf::open(first));
  Document twice = part(2, 3);
  twice.tensors[0].name = "t1";
  with(name_of(3), twice);
  CHECK_THROWS(Error, "tensor 't1' occurs in two parts", Gguf::open(first));
  Document wrong = part(0, 3);
  wrong.string("split.count", "3");
  with(name_of(1), wrong);
  CHECK_THROWS(Error, "key 'split.count': expected an integer", Gguf::open(first));
  CHECK_EQ(Gguf::open(write_all(folder))->tensors().size(), 3u);
}

TEST(names_missing_and_broken_parts) {
  const Folder folder;
  const std::string first = write_all(folder);
  fs::remove(folder.path / name_of(3));
  try {
    Gguf::open(first);
    CHECK(false);
  } catch (const Error& error) {
    CHECK(error.code() == foveal::ErrorCode::io);
    const std::string message = error.what();
    CHECK(message.find("part 3 of 3 of the split model is missing") != std::string::npos);
    CHECK(message.find((folder.path / name_of(3)).string()) != std::string::npos);
  }
  Document cut = part(2, 3);
  cut.tensors[0].ne = {4000};
  folder.write(name_of(3), cut);
  CHECK_THROWS(Error, "m-00003-of-00003.gguf: at offset", Gguf::open(first));
}

TEST(names_of_files) {
  const Folder folder;
  write_all(folder);
  CHECK_THROWS(Error, "part 1 of 3 of a split model, expected a name that ends in",
               Gguf::open(folder.write("renamed.gguf", part(0, 3))));
  CHECK_THROWS(Error, "part 2 of 3 of a split model", Gguf::open(folder.write("renamed.gguf", part(1, 3))));
  CHECK_THROWS(Error, "expected a name that ends in", Gguf::open(folder.write("m-0001-of-0003.gguf", part(0, 3))));
  CHECK_THROWS(Error, "expected a name that ends in", Gguf::open(folder.write("m-00004-of-00003.gguf", part(0, 3))));
  // A single file named like a part, or one part of one, is a whole model.
  CHECK_EQ(Gguf::open(folder.write("s-00001-of-00002.gguf", sample()))->warnings().size(), 1u);
  CHECK_EQ(Gguf::open(folder.write("s-00001-of-00001.gguf", part(0, 1)))->warnings().size(), 0u);
  // Only siblings of the given path are opened, never a path that a file names.
  Document evil = part(0, 3);
  evil.string("split.path", "../../etc/passwd");
  folder.write(name_of(1), evil);
  CHECK_EQ(Gguf::open((folder.path / name_of(1)).string())->tensors().size(), 3u);
  const Bytes memory = part(0, 3).bytes();
  CHECK_THROWS(Error, "can't be read from memory", Gguf::parse(memory, "m-00001-of-00003.gguf"));
}
