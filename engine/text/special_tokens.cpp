// The trie of added tokens; see special_tokens.h.
#include "engine/text/special_tokens.h"

#include <string>

namespace foveal {
namespace {

constexpr size_t longest_special = 512;  // bytes; longer ones are never matched, which bounds the work per place

bool is_trusted_only(TokenKind k) {
  return k == TokenKind::control || k == TokenKind::unknown;
}

}  // namespace

SpecialTokens::SpecialTokens(const Vocabulary& v) : nodes_(1) {
  std::vector<std::pair<int32_t, std::string>> tokens;
  size_t bytes = 0;
  for (int32_t id = 0; id < v.size(); ++id) {
    const TokenKind kind = v.kind_of(id);
    if (!is_trusted_only(kind) && kind != TokenKind::user_defined) continue;
    if (v.text_of(id).empty() || v.text_of(id).size() > longest_special) continue;
    // SentencePiece files may spell the spaces of user-defined tokens as U+2581
    const bool plain = is_trusted_only(kind);
    tokens.emplace_back(id, plain ? std::string(v.text_of(id)) : spaces_for_marks(v.text_of(id)));
    bytes += tokens.back().second.size();
  }
  edges_ = PairTable<int32_t>(bytes);
  for (const auto& [id, text] : tokens) {
    int32_t node = 0;
    for (const char c : text) {
      bool fresh = false;
      int32_t& next = edges_.add(node, static_cast<unsigned char>(c), &fresh);
      if (fresh) {
        next = static_cast<int32_t>(nodes_.size());
        nodes_.emplace_back();
      }
      node = next;
    }
    begins_[static_cast<unsigned char>(text[0])] = true;
    Node& end = nodes_[static_cast<size_t>(node)];
    int32_t& slot = is_trusted_only(v.kind_of(id)) ? end.trusted : end.always;
    if (slot < 0) slot = id;
  }
}

SpecialTokens::Match SpecialTokens::match(std::string_view text, size_t trusted) const {
  Match best;
  if (text.empty() || !begins_[static_cast<unsigned char>(text[0])]) return best;
  int32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const int32_t* next = edges_.find(node, static_cast<unsigned char>(text[i]));
    if (next == nullptr) break;
    node = *next;
    const Node& here = nodes_[static_cast<size_t>(node)];
    if (here.trusted >= 0 && i < trusted)
      best = {here.trusted, i + 1};
    else if (here.always >= 0)
      best = {here.always, i + 1};
  }
  return best;
}

}  // namespace foveal
