// The table of flags, named as in llama.cpp where it has them, and the parser that reads it.
#include "tools/cli/options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <string_view>

namespace foveal::cli {
namespace {

enum : unsigned { RUN = 1, CHAT = 2, INFO = 4, BENCH = 8, PLAN = 16 };
constexpr unsigned TALK = RUN | CHAT, MODEL = RUN | CHAT | BENCH, KEEP = MODEL | PLAN;

struct Command {
  const char* name;
  unsigned bit;
  const char* usage;
  const char* help;
};
constexpr std::array<Command, 5> commands = {{
    {"run", RUN, "foveal run -m FILE [--mmproj FILE --image FILE] -p TEXT", "answer one prompt"},
    {"chat", CHAT, "foveal chat -m FILE [--mmproj FILE]", "talk; /help lists what can be typed"},
    {"info", INFO, "foveal info FILE", "print metadata, tensors and sizes of a GGUF file"},
    {"plan", PLAN, "foveal plan MODEL [MMPROJ] [--image 1920x1080 x12] [--turns N]",
     "what a conversation would take, from the headers alone"},
    {"bench", BENCH, "foveal bench -m FILE [-p N] [-n N] [-d N,N]", "measure prefill and decode"},
}};

// What a flag's setter sees: where to write, the flag's name for messages, its value.
struct Given {
  Options& o;
  const std::string& flag;
  const std::string& value;

  [[noreturn]] void refuse(const std::string& expected) const {
    fail(ErrorCode::invalid_argument, flag, ": found ", quoted(value), ", expected ", expected);
  }
  int64_t integer(int64_t low, int64_t high) const { return one_integer(value, low, high); }
  int count(int low = 0) const { return static_cast<int>(integer(low, std::numeric_limits<int>::max())); }
  float number() const {
    double x = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), x);
    if (error != std::errc() || end != value.data() + value.size() || !std::isfinite(x) || std::fabs(x) > 1e30)
      refuse("a number");
    return static_cast<float>(x);
  }
  std::vector<int> list(int low) const {
    std::vector<int> out;
    for (size_t at = 0; at <= value.size();) {
      const size_t comma = std::min(value.find(',', at), value.size());
      out.push_back(static_cast<int>(one_integer(value.substr(at, comma - at), low, 1 << 30)));
      at = comma + 1;
    }
    return out;
  }

 private:
  int64_t one_integer(const std::string& text, int64_t low, int64_t high) const {
    int64_t x = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), x);
    if (error != std::errc() || end != text.data() + text.size() || x < low || x > high)
      refuse(cat("an integer from ", low, " to ", high));
    return x;
  }
};

// Files of one --image flag: a list with commas, unless a file has that very name.
void add_images(const Given& g) {
  std::error_code ignored;
  if (std::filesystem::exists(g.value, ignored)) {
    g.o.images.push_back(g.value);
    return;
  }
  for (size_t at = 0; at <= g.value.size();) {
    const size_t comma = std::min(g.value.find(',', at), g.value.size());
    if (comma == at) g.refuse("file names separated by commas");
    g.o.images.push_back(g.value.substr(at, comma - at));
    at = comma + 1;
  }
}

void set_seed(const Given& g) {
  if (g.value == "-1") {
    g.o.generate.sample.seed.reset();
    return;
  }
  uint64_t seed = 0;
  const auto [end, error] = std::from_chars(g.value.data(), g.value.data() + g.value.size(), seed);
  if (error != std::errc() || end != g.value.data() + g.value.size()) g.refuse("an integer from 0 to 2^64-1, or -1");
  g.o.generate.sample.seed = seed;
}

void set_device(const Given& g) {
  if (g.value != "auto" && g.value != "cpu" && g.value.rfind("cuda", 0) != 0) g.refuse("auto, cpu, cuda or cuda:N");
  g.o.device = g.value;
}

void set_stream_prefill(const Given& g) {
  if (g.value != "auto" && g.value != "on" && g.value != "off") g.refuse("auto, on or off");
  g.o.stream_prefill = g.value;
}

void set_output(const Given& g) {
  if (g.value != "md" && g.value != "json") g.refuse("md or json");
  g.o.bench_output = g.value;
}

// "1920x1080", or "1920x1080x12": twelve of them.
void add_size(const Given& g) {
  PlanImage image;
  int* const into[3] = {&image.width, &image.height, &image.count};
  const char* at = g.value.data();
  const char* const end = at + g.value.size();
  int n = 0;
  for (; n < 3 && at < end; ++n) {
    if (n > 0 && *at++ != 'x') break;
    const auto [stop, error] = std::from_chars(at, end, *into[n]);
    if (error != std::errc() || *into[n] < 1) g.refuse("WIDTHxHEIGHT or WIDTHxHEIGHTxHOWMANY");
    at = stop;
  }
  if (n < 2 || at != end) g.refuse("WIDTHxHEIGHT or WIDTHxHEIGHTxHOWMANY");
  g.o.plan.images.push_back(image);
}

void set_memory(const Given& g) {
  const Budget b = parse_budget(g.value);
  if (b.kind != Budget::bytes) g.refuse("a size such as 8GiB or 6000MiB");
  g.o.plan.memory = static_cast<uint64_t>(b.value);
}

struct Flag {
  const char* names;  // separated by blanks
  const char* value;  // what follows, nullptr for a switch
  unsigned commands;
  const char* help;
  void (*set)(const Given&);
};

const std::vector<Flag>& flags() {
  static const std::vector<Flag> table = {
      {"-m --model", "FILE", KEEP | INFO, "text model (GGUF)", [](const Given& g) { g.o.model = g.value; }},
      {"--mmproj", "FILE", KEEP, "picture encoder of that model (GGUF)", [](const Given& g) { g.o.mmproj = g.value; }},
      {"--image", "FILE,...", TALK, "picture for the prompt; repeatable", add_images},
      {"-p --prompt", "TEXT", TALK, "the prompt; run reads standard input without it",
       [](const Given& g) { g.o.prompt = g.value; }},
      {"-f --file", "FILE", RUN, "read the prompt from a file", [](const Given& g) { g.o.prompt_file = g.value; }},
      {"-sys --system-prompt", "TEXT", TALK, "system message", [](const Given& g) { g.o.system = g.value; }},
      {"--raw", nullptr, RUN, "the prompt is no chat turn: control tokens are parsed, <__media__> marks a picture",
       [](const Given& g) { g.o.raw = true; }},
      {"--chat-template", "NAME", TALK, "instead of the file's", [](const Given& g) { g.o.chat_template = g.value; }},
      {"-n --predict --n-predict", "N", TALK, "tokens to generate, -1 = to the end (256)",
       [](const Given& g) { g.o.generate.max_tokens = g.integer(-1, std::numeric_limits<int>::max()); }},
      {"-c --ctx-size", "N", TALK, "context; 0 = what the model was trained for, 8192 at most",
       [](const Given& g) { g.o.n_ctx = g.count(); }},
      {"-t --threads", "N", MODEL, "threads (physical cores)",
       [](const Given& g) { g.o.threads = static_cast<int>(g.integer(1, 1024)); }},
      {"-ngl --gpu-layers --n-gpu-layers", "N", MODEL, "the last N layers on the GPU; auto: as many as fit",
       [](const Given& g) { g.o.gpu_layers = g.value == "auto" ? -1 : g.count(); }},
      {"--device", "NAME", MODEL, "auto, cpu, cuda, or cuda:N of --list-devices", set_device},
      {"--stream-prefill", "WHEN", MODEL,
       "prompts read on the GPU also by layers on the CPU: auto (long ones), on, off (auto)", set_stream_prefill},
      {"--no-mmproj-offload", nullptr, TALK, "the picture encoder stays on the CPU where layers are on a GPU",
       [](const Given& g) { g.o.mmproj_offload = false; }},
      {"--image-min-tokens", "N", TALK | PLAN, "least rows per picture",
       [](const Given& g) { g.o.image_min_tokens = g.count(1); }},
      {"--image-max-tokens", "N", TALK | PLAN, "most rows per picture",
       [](const Given& g) { g.o.image_max_tokens = g.count(1); }},
      {"--vision-precision", "NAME", TALK, "products of the picture encoder: auto, f32, bf16, bf16x3 (auto)",
       [](const Given& g) { g.o.vision_precision = g.value; }},
      {"--temp", "X", TALK, "temperature, 0 = greedy (0)",
       [](const Given& g) { g.o.generate.sample.temperature = g.number(); }},
      {"--top-k", "N", TALK, "0 = off (40)", [](const Given& g) { g.o.generate.sample.top_k = g.count(); }},
      {"--top-p", "X", TALK, "1 = off (0.95)", [](const Given& g) { g.o.generate.sample.top_p = g.number(); }},
      {"--min-p", "X", TALK, "0 = off (0.05)", [](const Given& g) { g.o.generate.sample.min_p = g.number(); }},
      {"--repeat-penalty", "X", TALK, "1 = off (1)",
       [](const Given& g) { g.o.generate.sample.repeat_penalty = g.number(); }},
      {"--repeat-last-n", "N", TALK, "tokens that the penalty looks at (64)",
       [](const Given& g) { g.o.generate.sample.repeat_last_n = g.count(); }},
      {"-s --seed", "N", TALK, "-1 = a fresh one (-1)", set_seed},
      {"--stop", "TEXT", TALK, "end the answer before this text; repeatable",
       [](const Given& g) { g.o.generate.stop.push_back(g.value); }},
      {"--ignore-eos", nullptr, RUN, "go on past the end of the answer",
       [](const Given& g) { g.o.generate.ignore_eos = true; }},
      {"--kv-budget", "N", KEEP, "rows kept per head on average: N, N%, NMiB, auto, none (none)",
       [](const Given& g) { g.o.kv.budget = parse_budget(g.value); }},
      {"--kv-policy", "NAME", KEEP, "snapkv, pyramidkv, adakv, sparsemm, streaming, random (adakv)",
       [](const Given& g) { g.o.kv.policy = policy_from_name(g.value); }},
      {"--kv-mix", "NAME", KEEP, "none, vnorm, keydiff, fixed, mixkv, sharp (mixkv)",
       [](const Given& g) { g.o.kv.mix = mix_from_name(g.value); }},
      {"--kv-window", "N", KEEP, "last rows, always kept, whose queries score the others (32)",
       [](const Given& g) { g.o.kv.window = g.count(); }},
      {"--kv-sinks", "N", KEEP, "first rows, always kept (0)", [](const Given& g) { g.o.kv.sinks = g.count(); }},
      {"--kv-scope", "NAME", KEEP, "prompt, or image: only rows of pictures may go (prompt)",
       [](const Given& g) { g.o.kv.scope = scope_from_name(g.value); }},
      {"--kv-slack", "N", KEEP, "rows past the budget before a head is evicted again (32)",
       [](const Given& g) { g.o.kv.slack = g.count(); }},
      {"--kv-pin", "WHAT,...", KEEP, "never evicted: system, last-turn, START:STOP with commas between",
       [](const Given& g) { g.o.kv.pin = parse_pins(g.value); }},
      {"--kv-on-full", "NAME", KEEP, "at the end of the context: stop, evict, error (stop)",
       [](const Given& g) { g.o.kv.on_full = on_full_from_name(g.value); }},
      {"--kv-tables", "FILE", KEEP, "head scores and redundancy made by calibration",
       [](const Given& g) { g.o.kv.tables = g.value; }},
      {"--kv-type", "NAME", KEEP, "storage of keys and values: f16, f32, q8_0, q4_0 (f16)",
       [](const Given& g) { g.o.kv.dtype = kv_type_from_name(g.value); }},
      {"--kv-seed", "N", KEEP, "of policy random (0)",
       [](const Given& g) { g.o.kv.seed = static_cast<uint64_t>(g.integer(0, std::numeric_limits<int64_t>::max())); }},
      {"--session", "FILE", TALK, "go on from this file when it is there, and write it at the end",
       [](const Given& g) { g.o.session_file = g.value; }},
      {"--image", "WxH", PLAN, "size of pictures: 1920x1080, or twelve of them: 1920x1080x12", add_size},
      {"--turns", "N", PLAN, "turns of the conversation (1)",
       [](const Given& g) { g.o.plan.turns = g.integer(1, 100000); }},
      {"--text-tokens", "N", PLAN, "text of a turn (64)",
       [](const Given& g) { g.o.plan.text_tokens = g.integer(1, 1 << 24); }},
      {"-n --predict", "N", PLAN, "answer of a turn (256)",
       [](const Given& g) { g.o.plan.reply_tokens = g.integer(0, 1 << 24); }},
      {"--memory", "SIZE", PLAN, "to fit in, such as 8GiB; without it what is available", set_memory},
      {"--stats", nullptr, TALK, "print times, tokens/s and KV bytes", [](const Given& g) { g.o.stats = true; }},
      {"-p --n-prompt", "N,...", BENCH, "prompt lengths, 0 = none (512)",
       [](const Given& g) { g.o.bench_prompt = g.list(0); }},
      {"-n --n-gen", "N,...", BENCH, "tokens to decode, 0 = none (128)",
       [](const Given& g) { g.o.bench_generate = g.list(0); }},
      {"-d --n-depth", "N,...", BENCH, "rows in the context before (0)",
       [](const Given& g) { g.o.bench_depth = g.list(0); }},
      {"-r --repetitions", "N", BENCH, "(5)", [](const Given& g) { g.o.bench_repetitions = g.count(1); }},
      {"-o --output", "FORM", BENCH, "md or json (md)", set_output},
      {"-h --help", nullptr, KEEP | INFO, "this text", [](const Given& g) { g.o.help = true; }},
  };
  return table;
}

std::vector<std::string> split_names(const char* names) {
  std::vector<std::string> out(1);
  for (const char* c = names; *c; ++c) {
    if (*c == ' ') {
      out.emplace_back();
    } else {
      out.back() += *c;
    }
  }
  return out;
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, change});
    }
  }
  return row[b.size()];
}

std::string nearest(const std::string& word, const std::vector<std::string>& known) {
  const std::string shown = word.substr(0, 64);
  const auto best = std::min_element(known.begin(), known.end(), [&](const auto& a, const auto& b) {
    return edit_distance(shown, a) < edit_distance(shown, b);
  });
  return *best;
}

const Command& find_command(const std::string& name) {
  std::vector<std::string> known;
  for (const Command& c : commands) {
    if (name == c.name) return c;
    known.emplace_back(c.name);
  }
  fail(ErrorCode::invalid_argument, "unknown command ", quoted(name), "; did you mean ", nearest(name, known),
       "? `foveal --help` lists them");
}

const Flag& find_flag(const std::string& name, const Command& command) {
  std::vector<std::string> known;
  for (const Flag& f : flags()) {
    if (!(f.commands & command.bit)) continue;
    for (const std::string& n : split_names(f.names)) {
      if (n == name) return f;
      known.push_back(n);
    }
  }
  fail(ErrorCode::invalid_argument, "unknown flag ", quoted(name), "; did you mean ", nearest(name, known),
       "? `foveal ", command.name, " --help` lists them");
}

void check_complete(const Options& o) {
  if (o.help) return;
  if (o.model.empty())
    fail(ErrorCode::invalid_argument, o.command == "info" ? "info needs a FILE" : o.command + " needs -m FILE");
  if (!o.prompt.empty() && !o.prompt_file.empty())
    fail(ErrorCode::invalid_argument, "--prompt and --file are both given; one of them is enough");
  if (!o.images.empty() && o.mmproj.empty())
    fail(ErrorCode::invalid_argument, "--image needs --mmproj FILE, the picture encoder of the model");
  if (o.raw && (!o.system.empty() || !o.chat_template.empty()))
    fail(ErrorCode::invalid_argument, "--raw takes neither --system-prompt nor --chat-template");
  check_kv_options(o.kv);
}

}  // namespace

Options parse_command_line(const std::vector<std::string>& args) {
  Options o;
  if (args.empty() || args[0] == "-h" || args[0] == "--help" || args[0] == "help") {
    o.command = "help";
    return o;
  }
  if (args[0] == "--list-devices") {
    o.command = "list-devices";
    return o;
  }
  if (args[0] == "--version" || args[0] == "version") {
    o.command = "version";
    return o;
  }
  const Command& command = find_command(args[0]);
  o.command = command.name;
  bool only_files = false;
  for (size_t i = 1; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (!only_files && arg == "--") {
      only_files = true;
    } else if (only_files || arg.size() < 2 || arg[0] != '-') {
      // plan: "x12" after a size is how many of it
      if (command.bit == PLAN && !o.plan.images.empty() && arg.size() > 1 && arg[0] == 'x') {
        const auto [stop, error] = std::from_chars(arg.data() + 1, arg.data() + arg.size(), o.plan.images.back().count);
        if (error == std::errc() && stop == arg.data() + arg.size() && o.plan.images.back().count > 0) continue;
      }
      if (command.bit == PLAN && !o.model.empty() && o.mmproj.empty()) {
        o.mmproj = arg;
        continue;
      }
      if ((command.bit != INFO && command.bit != PLAN) || !o.model.empty())
        fail(ErrorCode::invalid_argument, "unexpected argument ", quoted(arg), "; `foveal ", command.name, " --help`");
      o.model = arg;
    } else {
      const bool is_long = arg.rfind("--", 0) == 0;
      const size_t equals = is_long ? arg.find('=') : std::string::npos;
      const std::string name = arg.substr(0, equals);
      const Flag& flag = find_flag(name, command);
      std::string value;
      if (equals != std::string::npos) {
        if (!flag.value) fail(ErrorCode::invalid_argument, name, ": takes no value");
        value = arg.substr(equals + 1);
      } else if (flag.value) {
        if (i + 1 == args.size()) fail(ErrorCode::invalid_argument, name, ": a value is missing (", flag.value, ")");
        value = args[++i];
      }
      flag.set({o, name, value});
    }
  }
  check_complete(o);
  return o;
}

std::string help_text(const std::string& command) {
  std::string text = "usage:\n";
  const Command* chosen = nullptr;
  for (const Command& c : commands) {
    if (command == c.name) chosen = &c;
  }
  for (const Command& c : commands) {
    if (!chosen || chosen == &c) text += cat("  ", c.usage, "\n      ", c.help, "\n");
  }
  if (!chosen) return text + "`foveal COMMAND --help` lists the flags of a command.\n";
  text += "\nflags:\n";
  for (const Flag& f : flags()) {
    if (!(f.commands & chosen->bit)) continue;
    std::string names;
    for (const std::string& n : split_names(f.names)) names += (names.empty() ? "" : ", ") + n;
    if (f.value) names += cat(" ", f.value);
    text += "  " + names + (names.size() < 30 ? std::string(30 - names.size(), ' ') : "\n" + std::string(32, ' ')) +
            f.help + "\n";
  }
  return text;
}

}  // namespace foveal::cli
