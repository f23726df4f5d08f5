// Recognises a file's chat template by its content; rendering is in chat_render.cpp.
#include "engine/text/chat.h"

#include <algorithm>

#include "engine/core/error.h"

namespace foveal {
namespace {

std::string choices() {
  std::string all;
  for (const std::string& name : chat_template_names()) all += (all.empty() ? "" : ", ") + name;
  return all;
}

ChatTemplate detect_chatml(std::string_view text, std::string_view projector) {
  const auto has = [&](std::string_view part) { return text.find(part) != text.npos; };
  if (projector == "internvl") return ChatTemplate::internvl;
  if (has("<|vision_start|>"))
    return has("You are a helpful assistant.") ? ChatTemplate::qwen_vl : ChatTemplate::qwen3_vl;
  if (has("named SmolLM, trained by Hugging Face")) return ChatTemplate::smollm;
  if (has("You are Qwen, created by Alibaba Cloud.")) return ChatTemplate::qwen25;
  if (has("You are a helpful assistant")) return ChatTemplate::qwen2;
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
  if (chat_template != nullptr) {
    const std::string_view text = *chat_template;
    const auto has = [&](std::string_view part) { return text.find(part) != text.npos; };
    if (has("<end_of_utterance>")) return ChatTemplate::smolvlm;
    if (has("<|im_start|>")) return detect_chatml(text, projector);
    if (has("<|start_header_id|>")) return has("Cutting Knowledge Date") ? ChatTemplate::llama31 : ChatTemplate::llama3;
    if (has("<start_of_turn>")) return ChatTemplate::gemma;
    if (has("[INST]")) return detect_inst(text);
    if (has("USER:") || has("ASSISTANT:")) return ChatTemplate::vicuna;
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

ChatTemplate detect_chat_template(const Gguf& text_file, std::string_view projector) {
  return detect_chat_template(text_file.find_string("tokenizer.chat_template"), projector, text_file.path());
}

}  // namespace foveal
