// Recognises a file's chat template by its content; rendering is in chat_render.cpp.
#include "engine/text/chat.h"

#include <algorithm>
#include <optional>

#include "engine/core/error.h"

namespace foveal {
namespace {

std::string choices() {
  std::string all;
  for (const std::string& name : chat_template_names()) all += (all.empty() ? "" : ", ") + name;
  return all;
}

constexpr std::string_view kHelpful = "You are a helpful assistant.";
constexpr std::string_view kQwen = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
constexpr std::string_view kSmol = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

// The system text that a ChatML template brings itself: a literal from the turn's head to its end.
std::optional<std::string_view> default_system(std::string_view text) {
  static constexpr std::string_view head = "<|im_start|>system", end = "<|im_end|>";
  for (size_t at = text.find(head); at != text.npos; at = text.find(head, at)) {
    at += head.size();
    std::string_view rest = text.substr(at);
    const size_t line = rest.starts_with("\n") ? 1 : rest.starts_with("\\n") ? 2 : 0;
    rest.remove_prefix(line);
    const size_t stop = rest.find(end);
    if (line == 0 || stop == rest.npos || stop == 0) continue;
    const std::string_view said = rest.substr(0, stop);
    if (said.find_first_of("'\"{") != 0) return said;
  }
  return std::nullopt;
}

ChatTemplate detect_chatml(std::string_view text, std::string_view projector) {
  const auto has = [&](std::string_view part) { return text.find(part) != text.npos; };
  if (projector == "internvl") return ChatTemplate::internvl;
  const auto said = default_system(text);
  if (has("<|vision_start|>"))
    return said            ? *said == kHelpful ? ChatTemplate::qwen_vl : ChatTemplate::qwen3_vl
           : has(kHelpful) ? ChatTemplate::qwen_vl
                           : ChatTemplate::qwen3_vl;
  if (said == kSmol) return ChatTemplate::smollm;
  if (said ? *said == kQwen : has("You are Qwen, created by Alibaba Cloud.")) return ChatTemplate::qwen25;
  if (said ? *said == kHelpful || *said == "You are a helpful assistant" : has("You are a helpful assistant"))
    return ChatTemplate::qwen2;
  return has("</think>") ? ChatTemplate::qwen3 : ChatTemplate::chatml;
}

ChatTemplate detect_inst(std::string_view text) {
  const auto has = [&](std::string_view part) { return text.find(part) != text.npos; };
  if (has("[SYSTEM_PROMPT]"))
    return has("[SYSTEM_PROMPT] ") ? ChatTemplate::mistral_v7 : ChatTemplate::mistral_v7_tekken;
  if (has("<<SYS>>") && !has("<image>")) return ChatTemplate::llama2;  // LLaVA-1.6 on Mistral has both
  if (has(" [/INST]")) return ChatTemplate::mistral_v1;
  return has("[INST] ") ? ChatTemplate::mistral_v3 : ChatTemplate::mistral_v3_tekken;
}

}  // namespace

const std::vector<std::string>& chat_template_names() {
  static const std::vector<std::string> names = {"chatml",
                                                 "smollm",
                                                 "smolvlm",
                                                 "qwen-vl",
                                                 "mistral-v1",
                                                 "mistral-v3",
                                                 "mistral-v7",
                                                 "llama2",
                                                 "llama3",
                                                 "vicuna",
                                                 "gemma",
                                                 "qwen3-vl",
                                                 "qwen2",
                                                 "qwen2.5",
                                                 "qwen3",
                                                 "internvl",
                                                 "mistral-v3-tekken",
                                                 "mistral-v7-tekken",
                                                 "llama3.1"};
  return names;
}

ChatTemplate chat_template_from_name(std::string_view name) {
  const auto& names = chat_template_names();
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end())
    fail(ErrorCode::invalid_argument, "--chat-template: found ", quoted(name), ", expected one of ", choices());
  return static_cast<ChatTemplate>(found - names.begin());
}

ChatTemplate detect_chat_template(const std::string* chat_template, std::string_view projector, std::string_view file) {
  if (chat_template != nullptr && !chat_template->empty()) {
    const std::string_view text = *chat_template;
    const auto has = [&](std::string_view part) { return text.find(part) != text.npos; };
    if (has("<end_of_utterance>")) return ChatTemplate::smolvlm;
    if (has("<|im_start|>") && !has("<|im_sep|>")) return detect_chatml(text, projector);
    if (has("<|start_header_id|>")) return has("Cutting Knowledge Date") ? ChatTemplate::llama31 : ChatTemplate::llama3;
    if (has("<start_of_turn>")) return ChatTemplate::gemma;
    if (has("[INST]")) return detect_inst(text);
    const bool user = has("USER:") || has(".upper()") || has("| upper") || has("|upper");  // of the role
    if (user && has("ASSISTANT:") && !has("### ")) return ChatTemplate::vicuna;
    fail(ErrorCode::unsupported, file, ": the chat template (key 'tokenizer.chat_template', ", text.size(),
         " bytes) is of no known family; choose one with --chat-template: ", choices());
  }
  if (projector == "mlp") return ChatTemplate::vicuna;
  if (projector == "qwen2vl_merger" || projector == "qwen2.5vl_merger") return ChatTemplate::qwen_vl;
  if (projector == "qwen3vl_merger") return ChatTemplate::qwen3_vl;
  if (projector == "internvl") return ChatTemplate::internvl;
  if (projector == "idefics3") return ChatTemplate::smolvlm;
  if (projector == "gemma3") return ChatTemplate::gemma;
  fail(ErrorCode::unsupported, file,
       ": the file has no chat template (key 'tokenizer.chat_template'); choose one with --chat-template: ", choices());
}

std::string chat_template_doubts(std::string_view text, ChatTemplate t) {
  const auto has = [&](std::string_view part) { return text.find(part) != text.npos; };
  std::string doubts;
  const auto doubt = [&](const std::string& what) { doubts += (doubts.empty() ? "" : "; ") + what; };
  const bool chatml = has("<|im_start|>") && t != ChatTemplate::smolvlm && t != ChatTemplate::internvl;
  const auto said = chatml ? default_system(text) : std::nullopt;
  const bool known =
      t == ChatTemplate::smollm || t == ChatTemplate::qwen25 || t == ChatTemplate::qwen2 || t == ChatTemplate::qwen_vl;
  if (said && !known) doubt(cat("its own system text (", quoted(said->substr(0, 60)), ")"));
  if (has("[SYSTEM_PROMPT]") && has("default_system_message")) doubt("its own system text");
  for (const char* begun : {"<|im_start|>assistant\n<think>\n", "<|im_start|>assistant\\n<think>\\n"})
    if (has(begun)) doubt("the <think> that it begins answers with");
  return doubts;
}

ChatTemplate detect_chat_template(const Gguf& text_file, std::string_view projector) {
  return detect_chat_template(text_file.find_string("tokenizer.chat_template"), projector, text_file.path());
}

}  // namespace foveal
