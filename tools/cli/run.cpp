// foveal run: one prompt, one answer.
#include <unistd.h>

#include "tools/cli/commands.h"
#include "tools/cli/setup.h"
#include "tools/image_file/image_file.h"

namespace foveal::cli {
namespace {

std::string read_prompt(const Options& o) {
  if (!o.prompt_file.empty()) return read_text_file(o.prompt_file);
  if (!o.prompt.empty()) return o.prompt;
  if (isatty(STDIN_FILENO) == 1)
    fail(ErrorCode::invalid_argument, "run needs a prompt: -p TEXT, -f FILE or standard input");
  return read_text_file("-");
}

// Text with <__media__> where pictures stand; pictures without a mark come first.
std::vector<Part> raw_parts(const std::string& prompt, const std::vector<Image>& images) {
  static const std::string mark = "<__media__>";
  std::vector<std::string> texts;
  size_t at = 0;
  for (size_t found; (found = prompt.find(mark, at)) != std::string::npos; at = found + mark.size())
    texts.push_back(prompt.substr(at, found - at));
  texts.push_back(prompt.substr(at));
  const size_t marks = texts.size() - 1;
  if (marks != 0 && marks != images.size())
    fail(ErrorCode::invalid_argument, "the prompt has ", marks, " marks <__media__>, but ", images.size(),
         " pictures were given");
  std::vector<Part> parts;
  if (marks == 0) parts.insert(parts.end(), images.size(), ImageView{});
  for (size_t i = 0; i < texts.size(); ++i) {
    if (!texts[i].empty()) parts.emplace_back(TextPiece{texts[i], true});
    if (i < marks) parts.emplace_back(ImageView{});
  }
  size_t next = 0;
  for (Part& part : parts) {
    if (auto* view = std::get_if<ImageView>(&part)) *view = images[next++].view();
  }
  return parts;
}

std::vector<Message> user_turn(const Options& o, const std::string& prompt) {
  std::vector<Message> messages;
  if (!o.system.empty()) messages.push_back({"system", {{ContentPart::text, o.system, -1}}});
  Message user{"user", {}};
  for (size_t i = 0; i < o.images.size(); ++i) user.content.push_back({ContentPart::image, "", static_cast<int>(i)});
  user.content.push_back({ContentPart::text, prompt, -1});
  messages.push_back(std::move(user));
  return messages;
}

}  // namespace

int run(const Options& o) {
  const std::string prompt = read_prompt(o);
  std::vector<Image> images;
  for (const std::string& path : o.images) images.push_back(read_image_file(path));
  const std::shared_ptr<const Model> model = load_model(o);
  const std::unique_ptr<Session> session = make_session(*model, o);
  const CancelOnInterrupt interruptible(*session);
  ProgressLine line;
  session->set_progress(line.callback());
  try {
    if (o.raw) {
      session->start(raw_parts(prompt, images), o.generate);
    } else {
      std::vector<ImageView> views;
      for (const Image& image : images) views.push_back(image.view());
      std::vector<Message> messages = user_turn(o, prompt);
      if (session->tokens().empty()) {
        session->start_chat(messages, views, o.generate);
      } else {
        session->start_next(messages.back(), views, o.generate);
      }
    }
    line.erase();
    stream_reply(*session);
    save_session(*session, o);
  } catch (const Error&) {
    if (interrupts() > 0) return 130;
    throw;
  }
  note_past_training(*session, *model);
  if (!session->stats().note.empty()) write_note("note: " + session->stats().note);
  if (session->stats().finish_reason == "context")
    write_note("note: the context is full; -c N makes it larger, --kv-on-full evict with --kv-budget goes on");
  if (o.stats) write_note(describe_turn(session->stats()));
  return interrupts() > 0 ? 130 : 0;
}

}  // namespace foveal::cli
