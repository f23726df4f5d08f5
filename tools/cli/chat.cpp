// foveal chat: a conversation. Ctrl-C stops the answer; twice, or at the prompt twice, it ends the program.
#include "tools/cli/commands.h"
#include "tools/cli/setup.h"
#include "tools/image_file/image_file.h"

namespace foveal::cli {
namespace {

constexpr const char* help =
    "/image FILE  put a picture before the next message\n"
    "/clear       forget the conversation\n"
    "/stats       times, tokens/s and KV bytes of the last answer\n"
    "/help        this text\n"
    "/quit        end\n"
    "A line that ends in \\ goes on; several pasted lines are one message. Ctrl-C stops an answer.";

class Conversation {
 public:
  Conversation(const Options& o, std::shared_ptr<const Model> model) : o_(o), model_(std::move(model)) {
    model_->chat_template();  // an unknown template is an error now, not after the first question
    begin(make_session(*model_, o));
    for (const std::string& path : o.images) add_image(path);
  }

  void clear() { begin(model_->session(o_.kv, o_.n_ctx)); }

  void begin(std::unique_ptr<Session> session) {
    session_ = std::move(session);
    session_->set_progress(line_.callback());
    messages_.clear();
    images_.clear();
    pending_.clear();
    warned_ = false;
    if (!o_.system.empty()) messages_.push_back({"system", {{ContentPart::text, o_.system, -1}}});
  }

  void add_image(const std::string& path) {
    if (!model_->has_vision()) fail(ErrorCode::invalid_argument, "pictures need --mmproj FILE, the model's encoder");
    images_.push_back(read_image_file(path));
    pending_.push_back(static_cast<int>(images_.size()) - 1);
    write_note(cat(path, ": ", images_.back().width, " x ", images_.back().height, ", goes with the next message"));
  }

  // One turn. When it fails, the message and its pictures are taken back.
  void ask(const std::string& text) {
    Message user{"user", {}};
    for (const int i : pending_) user.content.push_back({ContentPart::image, "", i});
    user.content.push_back({ContentPart::text, text, -1});
    messages_.push_back(std::move(user));
    std::vector<ImageView> views;
    for (const Image& image : images_) views.push_back(image.view());
    const CancelOnInterrupt interruptible(*session_);
    try {
      if (o_.session_file.empty() || session_->tokens().empty()) {
        session_->start_chat(messages_, views, o_.generate);
      } else {  // the session knows what was said before, in earlier runs too
        Message next = messages_.back();
        const auto first = images_.size() - pending_.size();
        for (ContentPart& part : next.content)
          if (part.kind == ContentPart::image) part.image_index -= static_cast<int>(first);
        session_->start_next(next, std::span(views).subspan(first), o_.generate);
      }
      line_.erase();
      stream();
    } catch (const Error& e) {
      line_.erase();
      messages_.pop_back();
      images_.resize(images_.size() - pending_.size());
      pending_.clear();
      if (interrupts() > 0) {
        write_note("stopped; the message was taken back");
      } else {
        write_note(cat("error: ", e.what()));
        if (e.code() == ErrorCode::context_full) write_note("/clear starts anew; -c N makes the context larger");
      }
      return;
    }
    pending_.clear();
    const TurnStats& stats = session_->stats();
    warned_ = warned_ || note_past_training(*session_, *model_);
    if (!stats.note.empty()) write_note("note: " + stats.note);
    if (stats.finish_reason == "context") write_note("note: the context is full; /clear starts anew");
    if (o_.stats) print_stats();
  }

  void save() const { save_session(*session_, o_); }

  void print_stats() const { write_note(describe_turn(session_->stats())); }

 private:
  void stream() {
    std::string piece, reply;
    while (session_->next(piece)) {
      write_out(piece);
      reply += piece;
    }
    write_out(reply.empty() || reply.back() != '\n' ? "\n" : "");
    messages_.push_back({"assistant", {{ContentPart::text, reply, -1}}});
  }

  const Options& o_;
  std::shared_ptr<const Model> model_;
  ProgressLine line_;
  std::unique_ptr<Session> session_;
  std::vector<Message> messages_;
  std::vector<Image> images_;  // of the whole conversation
  std::vector<int> pending_;   // pictures that go with the next message
  bool warned_ = false;        // of the session that passed what its model was trained for
};

std::string unquoted(std::string path) {
  while (!path.empty() && (path.back() == ' ' || path.back() == '\t')) path.pop_back();
  if (path.size() >= 2 && (path[0] == '"' || path[0] == '\'') && path.back() == path[0])
    path = path.substr(1, path.size() - 2);
  return path;
}

// False when the conversation is over.
bool command(Conversation& talk, const std::string& line) {
  const size_t blank = line.find_first_of(" \t");
  const std::string name = line.substr(0, blank);
  const size_t rest = blank == std::string::npos ? blank : line.find_first_not_of(" \t", blank);
  const std::string argument = rest == std::string::npos ? "" : unquoted(line.substr(rest));
  if (name == "/quit" || name == "/exit") return false;
  if (name == "/clear") {
    talk.clear();
  } else if (name == "/stats") {
    talk.print_stats();
  } else if (name == "/image" && !argument.empty()) {
    talk.add_image(argument);
  } else {
    write_note(name == "/help"    ? help
               : name == "/image" ? "/image needs a file name"
                                  : "unknown: " + name + "\n" + help);
  }
  return true;
}

}  // namespace

int chat(const Options& o) {
  Conversation talk(o, load_model(o));
  if (!o.prompt.empty()) talk.ask(o.prompt);
  catch_interrupts();
  reset_interrupts();
  LineReader reader;
  std::string line;
  for (;;) {
    const LineReader::Status status = reader.read("> ", line);
    if (status == LineReader::Status::end) {
      talk.save();
      return 0;
    }
    if (status == LineReader::Status::interrupted) {
      if (interrupts() >= 2) return 130;
      write_note("\n(Ctrl-C again or /quit ends)");
      continue;
    }
    try {
      if (line.find_first_not_of(" \t\n") == std::string::npos) continue;
      if (line[0] != '/') {
        talk.ask(line);
      } else if (!command(talk, line)) {
        talk.save();
        return 0;
      }
    } catch (const Error& e) {
      write_note(cat("error: ", e.what()));
    }
    reset_interrupts();
  }
}

}  // namespace foveal::cli
