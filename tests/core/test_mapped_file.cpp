// Every kind of thing that isn't a readable, non-empty regular file is refused with its path and the reason.
#include "engine/core/mapped_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "engine/core/error.h"
#include "tests/check.h"

using foveal::Error;
using foveal::MappedFile;

namespace {

struct Folder {
  std::string path;
  Folder() {
    char name[] = "/tmp/foveal_test_XXXXXX";
    path = ::mkdtemp(name);
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string file(const char* name, const std::string& text) const {
    const std::string p = path + "/" + name;
    FILE* f = std::fopen(p.c_str(), "wb");
    std::fwrite(text.data(), 1, text.size(), f);
    std::fclose(f);
    return p;
  }
};

}  // namespace

TEST(maps_a_file) {
  const Folder folder;
  const auto mapped = MappedFile::open(folder.file("a", "GGUF bytes"));
  CHECK_EQ(std::string(mapped->bytes().begin(), mapped->bytes().end()), std::string("GGUF bytes"));
}

TEST(refuses_the_rest) {
  const Folder folder;
  CHECK_THROWS(Error, "No such file", MappedFile::open(folder.path + "/missing"));
  CHECK_THROWS(Error, "missing", MappedFile::open(folder.path + "/missing"));
  CHECK_THROWS(Error, "found a directory", MappedFile::open(folder.path));
  CHECK_THROWS(Error, "empty", MappedFile::open(folder.file("empty", "")));
  CHECK_THROWS(Error, "found a device", MappedFile::open("/dev/null"));
  const std::string fifo = folder.path + "/fifo";
  CHECK_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  CHECK_THROWS(Error, "found a FIFO", MappedFile::open(fifo));  // must return at once, without a writer
  CHECK_THROWS(Error, "zero byte", MappedFile::open(std::string("a\0b", 3)));
  CHECK_THROWS(Error, "Not a directory", MappedFile::open(folder.file("a", "x") + "/b"));
  const std::string secret = folder.file("secret", "x");
  CHECK_EQ(::chmod(secret.c_str(), 0), 0);
  if (::geteuid() != 0) CHECK_THROWS(Error, "Permission denied", MappedFile::open(secret));
  try {
    MappedFile::open(folder.path);
  } catch (const Error& e) {
    CHECK(e.code() == foveal::ErrorCode::io);
  }
  CHECK_EQ(MappedFile::open(folder.file("b", "still fine"))->bytes().size(), size_t{10});
}
