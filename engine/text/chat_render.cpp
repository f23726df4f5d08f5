// Renders a conversation as the families' published templates do. One function a family.
#include <algorithm>
#include <functional>

#include "engine/core/error.h"
#include "engine/text/chat.h"
#include "engine/text/unicode.h"

namespace foveal {
namespace {

[[noreturn]] void bad(size_t message, const std::string& what) {
  fail(ErrorCode::invalid_argument, "messages[", message, "]: ", what);
}

// Without the white space at both ends that Python's strip, and so Jinja's trim, takes.
std::string_view trimmed(std::string_view s) {
  size_t begin = s.size(), end = s.size();
  for (size_t at = 0; at < s.size();) {
    const Char c = decode_char(s.data() + at, s.data() + s.size());
    const bool blank = (char_class(c.code_point) & class_space) != 0 || (c.code_point >= 0x1C && c.code_point <= 0x1F);
    if (!blank) begin = std::min(begin, at);
    at += c.bytes;
    if (!blank) end = at;
  }
  return s.substr(begin, end - begin);
}

// Collects pieces; what belongs to the template and what to the message stay apart.
class Prompt {
 public:
  std::vector<PromptPiece> pieces;

  void belongs_to(int message) { message_ = message; }
  void literal(std::string_view text) {
    if (!text.empty()) add(text, false);
  }
  void own(std::string_view text) { add(text, true); }  // empty too: a caller may look for where a message ends
  void picture(int index) {
    PromptPiece piece;
    piece.kind = PromptPiece::image;
    piece.image_index = index;
    piece.message = message_;
    piece.content = true;
    pieces.push_back(std::move(piece));
  }

 private:
  void add(std::string_view text, bool content) {
    PromptPiece piece;
    piece.value = text;
    piece.message = message_;
    piece.content = content;
    pieces.push_back(std::move(piece));
  }
  int message_ = -1;
};

using Messages = std::vector<Message>;

// The parts of a message as they stand.
void parts(Prompt& p, const Message& m, std::string_view before_image = "", std::string_view after_image = "",
           bool trim = false) {
  for (const ContentPart& part : m.content) {
    if (part.kind == ContentPart::text) {
      p.own(trim ? trimmed(part.value) : std::string_view(part.value));
      continue;
    }
    p.literal(before_image);
    p.picture(part.image_index);
    p.literal(after_image);
  }
}

std::string text_of(const Message& m) {
  std::string all;
  for (const ContentPart& part : m.content)
    if (part.kind == ContentPart::text) all += part.value;
  return all;
}

// LLaVA's order: every picture and a newline, then the text.
void pictures_first(Prompt& p, const Message& m, bool trim = false) {
  for (const ContentPart& part : m.content) {
    if (part.kind != ContentPart::image) continue;
    p.picture(part.image_index);
    p.literal("\n");
  }
  const std::string text = text_of(m);
  p.own(trim ? trimmed(text) : std::string_view(text));
}

bool answered(const Messages& messages) {
  return messages.back().role == "assistant";
}

// Calls turn(message, index) for each message with its pieces marked as its own.
void each(Prompt& p, const Messages& messages, size_t first, const std::function<void(const Message&, size_t)>& turn) {
  for (size_t i = first; i < messages.size(); ++i) {
    p.belongs_to(static_cast<int>(i));
    turn(messages[i], i);
  }
  p.belongs_to(-1);
}

// Families that fold a system text into a user turn: user and assistant must alternate behind it.
// Returns the index of the first turn: 1 with a system text, 0 without.
size_t check_alternation(const Messages& messages) {
  const size_t first = messages[0].role == "system" ? 1 : 0;
  if (first == messages.size()) bad(0, "a system message alone; this template needs a user's message behind it");
  for (size_t i = first; i < messages.size(); ++i) {
    const char* expected = (i - first) % 2 == 0 ? "user" : "assistant";
    if (messages[i].role != expected)
      bad(i, cat("found role ", quoted(messages[i].role), ", expected '", expected,
                 "': this template needs user and assistant in turn, behind at most one system message"));
  }
  return first;
}

// A system text that another message's turn carries: it stays its own message's content.
void folded_system(Prompt& p, const Messages& messages, std::string_view before, std::string_view after, int into,
                   bool trim = false) {
  const std::string text = text_of(messages[0]);
  p.belongs_to(0);
  p.literal(before);
  p.own(trim ? trimmed(text) : std::string_view(text));
  p.literal(after);
  p.belongs_to(into);
}

struct ChatmlStyle {
  std::string_view default_system = "";
  std::string_view after_image = "";
  bool drop_thoughts = false;
};

// Qwen3: an answer before the user's last message is shown without what stands up to </think>.
std::string without_thoughts(const std::string& text) {
  const size_t end = text.rfind("</think>");
  if (end == text.npos) return text;
  const size_t begin = text.find_first_not_of('\n', end + 8);
  return begin == text.npos ? "" : text.substr(begin);
}

void chatml(Prompt& p, const Messages& messages, const ChatmlStyle& style) {
  if (!style.default_system.empty() && messages[0].role != "system") {
    p.literal("<|im_start|>system\n");
    p.literal(style.default_system);
    p.literal("<|im_end|>\n");
  }
  size_t last_user = 0;
  for (size_t i = 0; i < messages.size(); ++i)
    if (messages[i].role == "user") last_user = i;
  each(p, messages, 0, [&](const Message& m, size_t i) {
    p.literal("<|im_start|>" + m.role + "\n");
    if (style.drop_thoughts && m.role == "assistant" && i < last_user)
      p.own(without_thoughts(text_of(m)));
    else
      parts(p, m, "", style.after_image);
    p.literal("<|im_end|>\n");
  });
  if (!answered(messages)) p.literal("<|im_start|>assistant\n");
}

void smolvlm(Prompt& p, const Messages& messages) {
  p.literal("<|im_start|>");
  each(p, messages, 0, [&](const Message& m, size_t) {
    std::string role = m.role;
    role[0] = static_cast<char>(role[0] - 'a' + 'A');
    const bool picture_first = !m.content.empty() && m.content[0].kind == ContentPart::image;
    p.literal(role + (picture_first ? ":" : ": "));
    parts(p, m);
    p.literal("<end_of_utterance>\n");
  });
  if (!answered(messages)) p.literal("Assistant:");
}

struct MistralStyle {
  std::string_view open, close, answer;  // around the user's text; in front of the answer
  bool system_last;                      // the system text stands in the last user turn, else in the first
  bool pictures_lead;
  bool trim_answer;
};

// System text as the tokenizers before v7 have it: inside a user turn.
void mistral(Prompt& p, const Messages& messages, const MistralStyle& style) {
  const size_t first = check_alternation(messages);
  const size_t host = style.system_last ? messages.size() - (answered(messages) ? 2 : 1) : first;
  each(p, messages, first, [&](const Message& m, size_t i) {
    if (m.role == "assistant") {
      const std::string text = text_of(m);
      p.literal(style.answer);
      p.own(style.trim_answer ? trimmed(text) : std::string_view(text));
      p.literal("</s>");
      return;
    }
    p.literal(style.open);
    if (first == 1 && i == host) folded_system(p, messages, "", "\n\n", static_cast<int>(i));
    if (style.pictures_lead)
      pictures_first(p, m);
    else
      parts(p, m);
    p.literal(style.close);
  });
}

void mistral_v7(Prompt& p, const Messages& messages, std::string_view space) {
  const size_t first = check_alternation(messages);
  if (first == 1) {
    folded_system(p, messages, cat("[SYSTEM_PROMPT]", space), "[/SYSTEM_PROMPT]", -1);
  }
  each(p, messages, first, [&](const Message& m, size_t) {
    p.literal(m.role == "user" ? cat("[INST]", space) : std::string(space));
    parts(p, m);
    p.literal(m.role == "user" ? "[/INST]" : "</s>");
  });
}

void llama2(Prompt& p, const Messages& messages) {
  const size_t first = check_alternation(messages);
  each(p, messages, first, [&](const Message& m, size_t i) {
    const std::string text = text_of(m);
    if (m.role == "assistant") {
      p.literal(" ");
      p.own(trimmed(text));
      p.literal(" </s>");
      return;
    }
    p.literal(i == first ? "[INST] " : "<s>[INST] ");
    if (first == 1 && i == first) folded_system(p, messages, "<<SYS>>\n", "\n<</SYS>>\n\n", static_cast<int>(i));
    pictures_first(p, m, true);
    p.literal(" [/INST]");
  });
}

// `dates`: Llama-3.1 opens with a system turn that tells two dates, its published defaults.
void llama3(Prompt& p, const Messages& messages, bool dates) {
  const auto turn = [&](std::string_view role, std::string_view lead, const Message* m) {
    p.literal(cat("<|start_header_id|>", role, "<|end_header_id|>\n\n", lead));
    if (m != nullptr) parts(p, *m, "", "", true);
    p.literal("<|eot_id|>");
  };
  const std::string_view lead = dates ? "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n" : "";
  const bool has_system = messages[0].role == "system";
  if (dates && !has_system) turn("system", lead, nullptr);
  each(p, messages, 0, [&](const Message& m, size_t i) { turn(m.role, i == 0 && has_system ? lead : "", &m); });
  if (!answered(messages)) p.literal("<|start_header_id|>assistant<|end_header_id|>\n\n");
}

void vicuna(Prompt& p, const Messages& messages) {
  const size_t first = messages[0].role == "system" ? 1 : 0;
  for (size_t i = 1; i < messages.size(); ++i)
    if (messages[i].role == "system") bad(i, "found role 'system', which this template has only at the beginning");
  if (first == 1) folded_system(p, messages, "", " ", -1);
  each(p, messages, first, [&](const Message& m, size_t) {
    p.literal(m.role == "user" ? "USER: " : "ASSISTANT: ");
    pictures_first(p, m);
    p.literal(m.role == "user" ? " " : "</s>");
  });
  if (!answered(messages)) p.literal("ASSISTANT:");
}

void gemma(Prompt& p, const Messages& messages) {
  const size_t first = check_alternation(messages);
  each(p, messages, first, [&](const Message& m, size_t i) {
    p.literal(m.role == "user" ? "<start_of_turn>user\n" : "<start_of_turn>model\n");
    if (first == 1 && i == first) folded_system(p, messages, "", "\n\n", static_cast<int>(i));
    parts(p, m, "\n\n", "\n\n", true);
    p.literal("<end_of_turn>\n");
  });
  if (!answered(messages)) p.literal("<start_of_turn>model\n");
}

void check_roles(const Messages& messages) {
  if (messages.empty()) fail(ErrorCode::invalid_argument, "messages: found none, expected at least one");
  for (size_t i = 0; i < messages.size(); ++i) {
    const Message& m = messages[i];
    if (m.role != "system" && m.role != "user" && m.role != "assistant")
      bad(i, cat("found role ", quoted(m.role), ", expected 'system', 'user' or 'assistant'"));
    for (const ContentPart& part : m.content)
      if (part.kind == ContentPart::image && m.role == "system")
        bad(i, "an image in a system message; pictures belong to the user's messages");
  }
}

}  // namespace

std::vector<PromptPiece> render_chat(ChatTemplate t, const std::vector<Message>& messages) {
  check_roles(messages);
  Prompt p;
  switch (t) {
    case ChatTemplate::chatml:
    case ChatTemplate::qwen3_vl:
      chatml(p, messages, {});
      break;
    case ChatTemplate::smollm:
      chatml(p, messages, {"You are a helpful AI assistant named SmolLM, trained by Hugging Face"});
      break;
    case ChatTemplate::qwen_vl:
    case ChatTemplate::qwen2:
      chatml(p, messages, {"You are a helpful assistant."});
      break;
    case ChatTemplate::qwen25:
      chatml(p, messages, {"You are Qwen, created by Alibaba Cloud. You are a helpful assistant."});
      break;
    case ChatTemplate::qwen3:
      chatml(p, messages, {.drop_thoughts = true});
      break;
    case ChatTemplate::internvl:
      chatml(p, messages, {.after_image = "\n"});
      break;
    case ChatTemplate::smolvlm:
      smolvlm(p, messages);
      break;
    case ChatTemplate::mistral_v1:
      mistral(p, messages, {"[INST] ", " [/INST]", " ", false, true, false});
      break;
    case ChatTemplate::mistral_v3:
      mistral(p, messages, {"[INST] ", "[/INST]", " ", true, false, true});
      break;
    case ChatTemplate::mistral_v3_tekken:
      mistral(p, messages, {"[INST]", "[/INST]", "", true, false, false});
      break;
    case ChatTemplate::mistral_v7:
      mistral_v7(p, messages, " ");
      break;
    case ChatTemplate::mistral_v7_tekken:
      mistral_v7(p, messages, "");
      break;
    case ChatTemplate::llama2:
      llama2(p, messages);
      break;
    case ChatTemplate::llama3:
      llama3(p, messages, false);
      break;
    case ChatTemplate::llama31:
      llama3(p, messages, true);
      break;
    case ChatTemplate::vicuna:
      vicuna(p, messages);
      break;
    case ChatTemplate::gemma:
      gemma(p, messages);
      break;
  }
  return std::move(p.pieces);
}

}  // namespace foveal
