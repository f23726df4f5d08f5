// clip.projector_type -> encoder, and the checks that come before any of them.
#include "engine/vision/encoders.h"

namespace foveal {
namespace {

struct Entry {
  const char* projector;
  VisionLoader* load;
};
constexpr Entry kEncoders[] = {
    {"qwen2vl_merger", load_qwen2vl}, {"qwen2.5vl_merger", load_qwen25vl},
    {"qwen3vl_merger", load_qwen3vl}, {"mlp", load_llava},
    {"internvl", load_internvl},      {"idefics3", load_idefics3},
    {"gemma3", load_gemma3},          {"qwen2.5o", load_qwen25vl},
};

// An mmproj file beside a text file, and not the other way round.
void check_roles(const Gguf& mmproj, const Gguf& text) {
  const auto arch_of = [](const Gguf& f) {
    const std::string* arch = f.find_string("general.architecture");
    return arch ? *arch : std::string();
  };
  const std::string arch = arch_of(mmproj), text_arch = arch_of(text);
  if (arch == "clip" && text_arch != "clip") return;
  if (arch == "clip") {
    fail(ErrorCode::unsupported, text.path(), ": this is an mmproj file (architecture 'clip'), expected a text model; ",
         "did you swap the two files?");
  }
  fail(ErrorCode::unsupported, mmproj.path(), ": expected an mmproj file (general.architecture 'clip'), found ",
       arch.empty() ? std::string("no architecture") : quoted(arch),
       text_arch == "clip" ? ", and the model is one" : "", "; did you swap the two files?");
}

}  // namespace

std::unique_ptr<VisionEncoder> load_vision(std::shared_ptr<const Gguf> mmproj, const Gguf& text, Backend& backend,
                                           const VisionOptions& options) {
  check_roles(*mmproj, text);
  if (options.min_tokens < 0 || options.max_tokens < 0 ||
      (options.max_tokens > 0 && options.min_tokens > options.max_tokens)) {
    fail(ErrorCode::invalid_argument, "image_min_tokens ", options.min_tokens, ", image_max_tokens ",
         options.max_tokens, ": expected positive numbers, the minimum not above the maximum");
  }
  const bool audio = mmproj->find_bool("clip.has_audio_encoder").value_or(false);
  if (!mmproj->find_bool("clip.has_vision_encoder").value_or(!audio)) {
    fail(ErrorCode::unsupported, mmproj->path(), ": this mmproj file has no vision encoder",
         audio ? ", only an audio encoder" : "", "; expected one for pictures");
  }
  const std::string* name = mmproj->find_string("clip.vision.projector_type");
  if (!name) name = mmproj->find_string("clip.projector_type");
  std::string known;
  for (const Entry& e : kEncoders) {
    if (name && *name == e.projector) return e.load({mmproj, text, backend, options});
    known += cat(known.empty() ? "" : ", ", "'", e.projector, "'");
  }
  fail(ErrorCode::unsupported, mmproj->path(), ": key 'clip.projector_type' is ",
       name ? quoted(*name) : std::string("missing"), ", expected one of ", known);
}

}  // namespace foveal
