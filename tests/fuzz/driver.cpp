// Runs a fuzz target without libFuzzer, with any compiler: replays files, then mutates for a while.
//   fuzz_x [--seconds N] [--runs N] [--seed S] [file or directory ...]
// An input that crashes, takes more than 2 s or leaves memory above 512 MB is written to crash-<target>.bin.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "tests/fuzz/structure.h"

extern "C" {
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
__attribute__((weak)) int LLVMFuzzerInitialize(int* argc, char*** argv);
__attribute__((weak)) size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed);
__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());
// One allocation above 64 MB is a finding, and freed memory doesn't pile up.
const char* __asan_default_options() {
  return "max_allocation_size_mb=64:allocator_may_return_null=0:detect_leaks=1:quarantine_size_mb=16:malloc_context_"
         "size=4";
}
}

namespace {

using Bytes = std::vector<uint8_t>;
using Clock = std::chrono::steady_clock;

constexpr size_t kMaxInput = size_t{1} << 20;
constexpr double kMaxSeconds = 2;
constexpr long kMaxResidentKb = 512 * 1024;

struct Options {
  double seconds = 0;
  uint64_t runs = 0, seed = 1;
  std::vector<std::string> paths;
};

const uint8_t* current_data = nullptr;
size_t current_size = 0;
std::string crash_file;

// Runs in a signal handler, where stdio may fail: the process is lost anyway.
void save_current() {
  std::FILE* out = std::fopen(crash_file.c_str(), "wb");
  if (!out) return;
  std::fwrite(current_data, 1, current_size, out);
  std::fclose(out);
  std::fprintf(stderr, "input of %zu bytes written to %s\n", current_size, crash_file.c_str());
}

void on_signal(int signal) {
  save_current();
  std::signal(signal, SIG_DFL);
  ::raise(signal);
}

void fail_current(const char* why) {
  std::fprintf(stderr, "failed: %s\n", why);
  save_current();
  std::exit(1);
}

void run_one(const Bytes& input) {
  // An exact copy: no spare capacity in which a read past the end would go unseen.
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[input.size() + (input.empty() ? 1 : 0)]);
  std::copy(input.begin(), input.end(), exact.get());
  current_data = exact.get();
  current_size = input.size();
  ::alarm(60);
  const std::clock_t start = std::clock();  // processor time: a busy machine is no finding
  LLVMFuzzerTestOneInput(exact.get(), input.size());
  if (static_cast<double>(std::clock() - start) > kMaxSeconds * CLOCKS_PER_SEC) fail_current("took more than 2 s");
  ::alarm(0);
}

Bytes read_file(const std::filesystem::path& path) {
  Bytes bytes(std::filesystem::file_size(path));
  std::ifstream(path, std::ios::binary)
      .read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

std::vector<Bytes> load(const std::vector<std::string>& paths) {
  std::vector<Bytes> inputs;
  for (const std::string& path : paths) {
    if (!std::filesystem::is_directory(path)) {
      inputs.push_back(read_file(path));
      continue;
    }
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
      if (entry.is_regular_file()) inputs.push_back(read_file(entry.path()));
    }
  }
  return inputs;
}

Bytes mutate(const Bytes& input, fuzz::Random& random) {
  if (LLVMFuzzerCustomMutator) {
    static Bytes scratch(kMaxInput);
    std::copy(input.begin(), input.end(), scratch.begin());
    const size_t size =
        LLVMFuzzerCustomMutator(scratch.data(), input.size(), kMaxInput, static_cast<unsigned>(random.next()));
    return Bytes(scratch.begin(), scratch.begin() + static_cast<std::ptrdiff_t>(size));
  }
  Bytes out = input;
  for (uint64_t n = 1 + random.below(8); n > 0; --n) {
    if (out.empty() || random.one_in(4)) {
      out.insert(out.begin() + static_cast<std::ptrdiff_t>(random.below(out.size() + 1)),
                 static_cast<uint8_t>(random.below(256)));
    } else if (random.one_in(8)) {
      out.resize(random.below(out.size()));
    } else {
      random.pick(out) ^= static_cast<uint8_t>(1u << random.below(8));
    }
  }
  return out;
}

// Mutants of mutants: a random one of a small pool each time, which its mutant may replace.
void mutate_for(const Options& options, std::vector<Bytes> pool) {
  constexpr size_t kPool = 64;
  fuzz::Random random(options.seed);
  const auto start = Clock::now();
  pool.resize(std::max(pool.size(), kPool));
  fuzz::accepted = 0;
  uint64_t runs = 0;
  while (options.runs == 0 || runs < options.runs) {
    if (options.seconds > 0 && std::chrono::duration<double>(Clock::now() - start).count() >= options.seconds) break;
    Bytes input = mutate(random.pick(pool), random);
    const uint64_t accepted = fuzz::accepted;
    run_one(input);
    ++runs;
    // Good inputs breed; a refused one rarely does.
    if (random.one_in(fuzz::accepted > accepted ? 3 : 50)) random.pick(pool) = std::move(input);
    if (random.one_in(50)) random.pick(pool).clear();  // back to a seed
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  std::printf("%llu executions in %.1f s, %.0f/s, %.0f%% of the inputs accepted\n",
              static_cast<unsigned long long>(runs), seconds, static_cast<double>(runs) / seconds,
              100.0 * static_cast<double>(fuzz::accepted) / static_cast<double>(std::max<uint64_t>(runs, 1)));
}

bool parse_options(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (!argument.starts_with("--")) {
      options.paths.push_back(argument);
    } else if (i + 1 == argc) {
      return false;
    } else if (argument == "--seconds") {
      options.seconds = std::atof(argv[++i]);
    } else if (argument == "--runs") {
      options.runs = std::strtoull(argv[++i], nullptr, 10);
    } else if (argument == "--seed") {
      options.seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse_options(argc, argv, options)) {
    std::fprintf(stderr, "usage: %s [--seconds N] [--runs N] [--seed S] [file or directory ...]\n", argv[0]);
    return 2;
  }
  crash_file = "crash-" + std::filesystem::path(argv[0]).filename().string() + ".bin";
  for (const int signal : {SIGSEGV, SIGABRT, SIGFPE, SIGILL, SIGBUS, SIGALRM}) std::signal(signal, on_signal);
  if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(save_current);
  if (LLVMFuzzerInitialize) LLVMFuzzerInitialize(&argc, &argv);
  std::vector<Bytes> inputs = load(options.paths);
  for (const Bytes& input : inputs) run_one(input);
  std::printf("%zu files replayed\n", inputs.size());
  std::erase_if(inputs, [](const Bytes& input) { return input.size() > kMaxInput; });
  if (options.seconds > 0 || options.runs > 0) mutate_for(options, std::move(inputs));
  struct rusage usage;
  if (::getrusage(RUSAGE_SELF, &usage) == 0 && usage.ru_maxrss > kMaxResidentKb) fail_current("memory above 512 MB");
  return 0;
}
