// All text architectures. A new one: its own file, and its name here twice.
#include "engine/core/error.h"
#include "engine/models/architectures.h"

namespace foveal {

extern const Architecture kLlama, kQwen2, kQwen2vl, kQwen3, kQwen3vl, kGemma3;

namespace {

const Architecture* const kArchitectures[] = {&kLlama, &kQwen2, &kQwen2vl, &kQwen3, &kQwen3vl, &kGemma3};

const Architecture& find_architecture(const Gguf& file) {
  const std::string* name = file.find_string("general.architecture");
  std::string known;
  for (const Architecture* a : kArchitectures) {
    if (name && *name == a->name) return *a;
    known += (known.empty() ? "" : ", ") + std::string(a->name);
  }
  fail(ErrorCode::unsupported, file.path(), ": key 'general.architecture': found ", name ? quoted(*name) : "none",
       ", supported are ", known);
}

}  // namespace

TextParams read_text_params(const Gguf& file) {
  return find_architecture(file).read_params(file);
}

std::unique_ptr<TextModel> load_text_model(std::shared_ptr<const Gguf> file, Backend& backend, ModelPart part) {
  const Architecture& architecture = find_architecture(*file);
  return architecture.load(std::move(file), backend, part);
}

}  // namespace foveal
