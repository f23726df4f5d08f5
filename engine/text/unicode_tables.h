// The generated tables of unicode_tables.cpp (tools/unicode_tables.py explains the packing).
#pragma once

#include <cstdint>

namespace foveal {

extern const uint32_t unicode_class_runs[];  // start << 8 | CharClass bits, first entry starts at 0
extern const unsigned unicode_class_runs_size;
extern const uint32_t unicode_combining_runs[];  // start << 8 | canonical combining class
extern const unsigned unicode_combining_runs_size;
extern const uint32_t unicode_decompositions[];     // [n][3]: code point, first, second
extern const unsigned unicode_decompositions_size;  // 3 * n

// The low byte of the run that holds `code_point`.
uint8_t value_in_runs(const uint32_t* runs, unsigned n, uint32_t code_point);

}  // namespace foveal
