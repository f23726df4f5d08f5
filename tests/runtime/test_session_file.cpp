// A save that is killed leaves the old file or the new one, and nothing half.
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <random>

#include "engine/engine.h"
#include "tests/check.h"

using namespace foveal;

namespace {

const std::string kModel = FOVEAL_TEST_DATA "/text_llama/model-f16.gguf";

std::unique_ptr<Session> prompt(const Model& model, int rows) {
  KvOptions kv;
  kv.budget = {Budget::rows, 64};
  auto session = model.session(kv, 1024);
  std::vector<int32_t> ids;
  for (int i = 0; i < rows; ++i) ids.push_back(3 + i * 7 % 200);
  const Part part = ids;
  session->prefill(std::span<const Part>(&part, 1));
  return session;
}

// The child: saves one session and the other in turn until it is killed.
[[noreturn]] void save_for_ever(const std::string& path, int ready) {
  try {
    ModelOptions options;
    options.threads = 1;
    const auto model = Model::load(kModel, options);
    const auto a = prompt(*model, 100), b = prompt(*model, 150);
    a->save(path);
    const char go = 1;
    if (write(ready, &go, 1) != 1) _exit(2);
    for (;;) {
      b->save(path);
      a->save(path);
    }
  } catch (...) {
    _exit(3);
  }
}

}  // namespace

TEST(killed_saves_leave_the_old_file_or_the_new) {
  std::string folder = (std::filesystem::temp_directory_path() / "foveal-XXXXXX").string();
  CHECK(mkdtemp(folder.data()) != nullptr);
  const std::string path = folder + "/a.kv";
  std::vector<pid_t> children;
  std::mt19937 random(7);
  int broken = 0, old = 0, with_temporary = 0;
  const auto check = [&] {  // the model is loaded after the fork: a child of a process with threads is no fair test
    int status = 0;
    const pid_t child = fork();
    if (child == 0) {
      try {
        ModelOptions options;
        options.threads = 1;
        const auto session = Model::load(kModel, options)->load_session(path);
        const size_t n = session->tokens().size();
        _exit(n == 100 ? 10 : n == 150 ? 11 : 12);
      } catch (...) {
        _exit(13);
      }
    }
    waitpid(child, &status, 0);
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 14;
    old += code == 10;
    broken += code != 10 && code != 11;
  };
  for (int i = 0; i < 300; ++i) {
    int ready[2];
    CHECK(pipe(ready) == 0);
    const pid_t child = fork();
    if (child == 0) save_for_ever(path, ready[1]);
    close(ready[1]);
    char go = 0;
    CHECK(read(ready[0], &go, 1) == 1);
    close(ready[0]);
    usleep(random() % 4000);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    check();
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      if (entry.path() != path) {
        ++with_temporary;
        std::filesystem::remove(entry.path());
      }
  }
  std::printf("300 kills: %d held the first session, %d the second, %d broken; %d died while writing\n", old,
              300 - old - broken, broken, with_temporary);
  CHECK_EQ(broken, 0);
  CHECK(old > 0 && old < 300);
  CHECK(with_temporary > 10);  // the kills did hit saves
  std::filesystem::remove_all(folder);
}
