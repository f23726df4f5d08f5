// Chat prompts: the families' templates, recognised by the content of tokenizer.chat_template and rendered by our own
// code. A template from a file is never executed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/gguf/gguf.h"

namespace foveal {

// One part of a message: text, or an image (index into the call's pictures).
struct ContentPart {
  enum Kind { text, image } kind = text;
  std::string value;     // text
  int image_index = -1;  // image
};
struct Message {
  std::string role;  // "system" | "user" | "assistant"
  std::vector<ContentPart> content;
};

// A piece of the rendered prompt. Pieces of one message carry its index; `content` marks the message's own (user)
// content (there even when empty), everything else is the template's and may hold control tokens.
struct PromptPiece {
  enum Kind { text, image } kind = text;
  std::string value;
  int image_index = -1;
  int message = -1;  // -1: belongs to no message (generation prompt, default system text)
  bool content = false;
};

enum class ChatTemplate {
  chatml,
  smollm,
  smolvlm,
  qwen_vl,  // Qwen2-VL, Qwen2.5-VL: default system text
  mistral_v1,
  mistral_v3,
  mistral_v7,
  llama2,
  llama3,
  vicuna,
  gemma,
  qwen3_vl,  // as qwen_vl, no default system text
  qwen2,     // "You are a helpful assistant."
  qwen25,    // "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
  qwen3,     // earlier answers lose their <think> blocks
  internvl,  // each picture is followed by a newline
  mistral_v3_tekken,
  mistral_v7_tekken,
  llama31,  // the system turn begins with two dates
};

// Names for --chat-template: "chatml", "smollm", "smolvlm", "qwen-vl", "mistral-v1", ..., in the enum's order.
const std::vector<std::string>& chat_template_names();
ChatTemplate chat_template_from_name(std::string_view name);  // invalid_argument lists the names

// Recognises the template in the file; `projector` ("" when none) settles files without one (LLaVA: vicuna) and tells
// InternVL from other ChatML. unsupported: names --chat-template and the choices.
ChatTemplate detect_chat_template(const Gguf& text_file, std::string_view projector);
// The same on the template's text (nullptr: the file has none); `file` stands in messages.
ChatTemplate detect_chat_template(const std::string* chat_template, std::string_view projector, std::string_view file);

// What the file's template has beside the family that it was taken for, and what is therefore left out; "" for nothing.
std::string chat_template_doubts(std::string_view text, ChatTemplate t);

// Renders the conversation and, when the last message isn't the assistant's, the generation prompt. BOS is not
// included. Errors (invalid_argument, with the message's index): no message, unknown role, roles out of order for a
// family that needs alternation, an image in a system message.
std::vector<PromptPiece> render_chat(ChatTemplate t, const std::vector<Message>& messages);

}  // namespace foveal
