// A minimal test harness: TEST(name) { CHECK(...); } in a file, run by ctest; exit status 1 when anything failed.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <string>
#include <vector>

namespace check {

struct Case {
  const char* name;
  void (*run)();
};
inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}
inline int& failures() {
  static int n = 0;
  return n;
}
struct Register {
  Register(const char* name, void (*run)()) { cases().push_back({name, run}); }
};
inline void failed(const char* file, int line, const std::string& what) {
  std::printf("%s:%d: failed: %s\n", file, line, what.c_str());
  ++failures();
}

}  // namespace check

#define TEST(name)                                                  \
  static void test_##name();                                        \
  static const check::Register register_##name(#name, test_##name); \
  static void test_##name()

#define CHECK(condition)                                             \
  do {                                                               \
    if (!(condition)) check::failed(__FILE__, __LINE__, #condition); \
  } while (0)

#define CHECK_EQ(a, b)                                                          \
  do {                                                                          \
    const auto check_a = (a);                                                   \
    const auto check_b = (b);                                                   \
    if (!(check_a == check_b)) check::failed(__FILE__, __LINE__, #a " == " #b); \
  } while (0)

#define CHECK_NEAR(a, b, tolerance)                                                                              \
  do {                                                                                                           \
    const double check_a = (a), check_b = (b), check_t = (tolerance);                                            \
    if (!(std::fabs(check_a - check_b) <= check_t))                                                              \
      check::failed(__FILE__, __LINE__,                                                                          \
                    std::string(#a " ~ " #b ": ") + std::to_string(check_a) + " vs " + std::to_string(check_b) + \
                        ", tolerance " + std::to_string(check_t));                                               \
  } while (0)

// The expression must throw an exception of type E whose what() contains `part`.
#define CHECK_THROWS(E, part, ...)                                                                           \
  do {                                                                                                       \
    bool check_thrown = false;                                                                               \
    try {                                                                                                    \
      __VA_ARGS__;                                                                                           \
    } catch (const E& check_e) {                                                                             \
      check_thrown = true;                                                                                   \
      if (std::strstr(check_e.what(), part) == nullptr)                                                      \
        check::failed(__FILE__, __LINE__, std::string("message lacks '") + (part) + "': " + check_e.what()); \
    }                                                                                                        \
    if (!check_thrown) check::failed(__FILE__, __LINE__, std::string("no " #E " from " #__VA_ARGS__));       \
  } while (0)

int main(int argc, char** argv) {
  for (const auto& c : check::cases()) {
    if (argc > 1 && std::strcmp(argv[1], c.name) != 0) continue;
    const int before = check::failures();
    try {
      c.run();
    } catch (const std::exception& e) {
      check::failed(c.name, 0, std::string("exception: ") + e.what());
    }
    std::printf("%s %s\n", check::failures() == before ? "ok  " : "FAIL", c.name);
  }
  return check::failures() == 0 ? 0 : 1;
}
