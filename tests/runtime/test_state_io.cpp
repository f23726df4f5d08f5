// Bytes of session files: round trip, bounds, atomic replacement.
#include "engine/runtime/state_io.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "tests/check.h"

using namespace foveal;

namespace {
std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
}  // namespace

TEST(round_trip_and_bounds) {
  StateWriter out;
  out.value<int64_t>(-5);
  out.text("foveal");
  const std::vector<float> items = {1.5f, -2.0f};
  out.list(std::span<const float>(items));
  StateReader in(out.data(), "file");
  CHECK_EQ(in.number("n", -10, 10), -5);
  CHECK_EQ(in.text("t", 100), std::string("foveal"));
  CHECK_EQ(in.list<float>("l", 2), items);
  CHECK_EQ(in.left(), 0u);
  CHECK_THROWS(Error, "expected 1 more bytes, found 0", in.take(1));

  StateReader again(out.data(), "file");
  CHECK_THROWS(Error, "n: found -5, expected 0 to 10", again.number("n", 0, 10));
  StateWriter huge;
  huge.value<uint64_t>(uint64_t{1} << 62);
  StateReader short_list(huge.data(), "file");
  CHECK_THROWS(Error, "rows", short_list.list<double>("rows", UINT64_MAX));
}

TEST(replaces_whole_files_only) {
  char folder[] = "/tmp/foveal-state-XXXXXX";
  CHECK(mkdtemp(folder) != nullptr);
  const std::string path = std::string(folder) + "/s";
  const std::vector<uint8_t> one(100, 'a'), two(50, 'b');
  write_file_atomically(path, one);
  write_file_atomically(path, two);
  CHECK_EQ(read_all(path), std::string(50, 'b'));
  CHECK_THROWS(Error, "not a regular file", write_file_atomically(folder, one));
  CHECK_THROWS(Error, "nowhere", write_file_atomically(std::string(folder) + "/nowhere/s", one));
  CHECK_EQ(read_all(path), std::string(50, 'b'));
  std::remove(path.c_str());
  CHECK(rmdir(folder) == 0);  // no temporaries left
}
