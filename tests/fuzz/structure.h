// Structure-aware mutation of GGUF files: parse leniently, change a field or two, write again with everything else
// consistent, so that most mutants get past the header.
#pragma once

#include <algorithm>
#include <optional>
#include <span>

#include "tests/fuzz/random.h"
#include "tests/gguf/writer.h"

namespace fuzz {

// Inputs that a target took as good, counted by it: a fuzzer whose inputs are all refused tests little.
extern uint64_t accepted;

using gguf_writer::Bytes;
using gguf_writer::Document;

// A whole file as a document; nullopt when it isn't consistent enough to be taken apart.
std::optional<Document> take_apart(std::span<const uint8_t> bytes);

// Changes one field. `keys`: names worth setting (numbers, texts and arrays of every type are tried for them).
void mutate(Document& document, Random& random, std::span<const char* const> keys);

// The body of LLVMFuzzerCustomMutator: takes `data` apart (or starts from one of `seeds`), changes one or two fields,
// now and then some bytes; writes at most `max_size` bytes over `data` and returns how many.
size_t mutate_file(uint8_t* data, size_t size, size_t max_size, unsigned seed, std::span<const Document> seeds,
                   std::span<const char* const> keys);

}  // namespace fuzz
