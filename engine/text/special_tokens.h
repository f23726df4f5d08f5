// Finds added tokens (control, unknown, user-defined) in text: the leftmost place first, the longest token there.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "engine/text/hash_tables.h"
#include "engine/text/vocabulary.h"

namespace foveal {

class SpecialTokens {
 public:
  explicit SpecialTokens(const Vocabulary& vocabulary);

  struct Match {
    int32_t id = -1;
    size_t bytes = 0;
  };
  // The longest token that `text` begins with. Control and unknown tokens count only within the first `trusted` bytes,
  // user-defined ones always.
  Match match(std::string_view text, size_t trusted) const;

 private:
  struct Node {
    int32_t always = -1, trusted = -1;  // token ids that end here
  };
  std::vector<Node> nodes_;   // a trie; 0 is the root
  PairTable<int32_t> edges_;  // (node, byte) -> node
  bool begins_[256] = {};     // bytes that some token begins with
};

}  // namespace foveal
