// What the command line says: one table of flags for all commands, in options.cpp.
#pragma once

#include <string>
#include <vector>

#include "engine/engine.h"

namespace foveal::cli {

struct Options {
  std::string command;  // "run" | "chat" | "info" | "bench" | "plan" | "help" | "version"
  bool help = false;

  std::string model, mmproj, device = "auto", chat_template;
  std::string vision_precision = "auto", stream_prefill = "auto";
  bool mmproj_offload = true;
  int gpu_layers = -1, threads = 0, image_min_tokens = 0, image_max_tokens = 0;
  int64_t n_ctx = 0;
  KvOptions kv;

  std::string prompt, prompt_file, system;
  std::vector<std::string> images;
  bool raw = false, stats = false;
  std::string session_file;  // "": none
  GenerateOptions generate;

  std::vector<int> bench_prompt{512}, bench_generate{128}, bench_depth{0};
  int bench_repetitions = 5;
  PlanQuery plan;  // its files and KV options are those above
  std::string bench_output = "md";
};

// invalid_argument: unknown flag (with the nearest one), missing or malformed value.
Options parse_command_line(const std::vector<std::string>& args);

std::string help_text(const std::string& command);  // "" or unknown: all commands

}  // namespace foveal::cli
