// From options to a loaded model, a session, pictures; and the statistics of a turn as text.
#pragma once

#include "tools/cli/options.h"
#include "tools/cli/terminal.h"

namespace foveal::cli {

std::shared_ptr<const Model> load_model(const Options& o);
// A new session, or the one in --session FILE, whose own KV options then hold.
std::unique_ptr<Session> make_session(const Model& model, const Options& o);
// Says so on standard error where the session has passed what its model was trained for.
bool note_past_training(const Session& session, const Model& model);
void save_session(const Session& session, const Options& o);  // to --session FILE, when one was given
std::string read_text_file(const std::string& path);          // "-" is standard input
std::string describe_turn(const TurnStats& stats);
std::string bytes_text(uint64_t bytes);  // "1.5 MiB"

// Streams the running turn to standard output.
void stream_reply(Session& session);

}  // namespace foveal::cli
