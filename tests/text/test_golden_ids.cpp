// Token ids of the original implementations' prompts: every family of tests/data, and SmolLM2's real vocabulary.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "engine/text/tokenizer.h"
#include "engine/text/unicode.h"
#include "tests/check.h"

using namespace foveal;
namespace fs = std::filesystem;

namespace {

using Ids = std::vector<int32_t>;
const fs::path data = FOVEAL_TEST_DATA;

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// The string behind the next "key": at or after `at`, which moves behind it. Enough JSON for the goldens.
std::string next_string(const std::string& json, const std::string& key, size_t& at) {
  std::string out;
  at = json.find("\"" + key + "\":", at);
  if (at == json.npos) return out;
  for (at = json.find('"', at + key.size() + 3) + 1; json[at] != '"'; ++at) {
    if (json[at] != '\\')
      out += json[at];
    else if (json[++at] == 'u')
      append_utf8(out, static_cast<uint32_t>(std::stoul(json.substr(at + 1, 4), nullptr, 16))), at += 4;
    else
      out += json[at] == 'n' ? '\n' : json[at] == 't' ? '\t' : json[at];
  }
  return out;
}

Ids next_ids(const std::string& json, const std::string& key, size_t& at) {
  Ids out;
  at = json.find("\"" + key + "\":", at);
  for (at = json.find('[', at) + 1; json[at] != ']';) {
    size_t used = 0;
    out.push_back(std::stoi(json.substr(at, 12), &used));
    at = json.find_first_of(",]", at + used);
    if (json[at] == ',') ++at;
  }
  return out;
}

// Whether the ids are those of the prompt's texts in order, with other ids (BOS, pictures) before and between only.
bool spells(const Tokenizer& t, std::string prompt, const Ids& ids) {
  const std::string picture = "<__media__>";
  auto at = ids.begin() + (t.add_bos() ? 1 : 0);
  for (bool first = true, last = false; !last; first = false) {
    const size_t end = prompt.find(picture);
    last = end == prompt.npos;
    const Ids part = t.encode(prompt.substr(0, end), true);
    const auto found = first ? at : std::search(at, ids.end(), part.begin(), part.end());
    if (found == ids.end() || ids.end() - found < static_cast<ptrdiff_t>(part.size())) return false;
    if (!std::equal(part.begin(), part.end(), found)) return false;
    at = found + static_cast<ptrdiff_t>(part.size());
    if (!last) prompt.erase(0, end + picture.size());
  }
  return at == ids.end();
}

}  // namespace

TEST(prompts_of_every_family) {
  int checked = 0;
  for (const auto& folder : fs::directory_iterator(data)) {
    const fs::path model = folder.path() / "model-f16.gguf";
    if (!fs::exists(model)) continue;
    const auto t = Tokenizer::load(*Gguf::open(model.string()));
    for (const auto& file : fs::directory_iterator(folder.path())) {
      const std::string name = file.path().filename().string();
      if (!name.starts_with("golden") || file.path().extension() != ".json") continue;
      const std::string json = read(file.path());
      size_t at = 0;
      const std::string prompt = next_string(json, "prompt", at);
      at = 0;
      const Ids ids = next_ids(json, "input_ids", at);
      if (!spells(*t, prompt, ids)) check::failed(file.path().c_str(), 0, prompt);
      ++checked;
    }
  }
  CHECK(checked >= 40);
}

TEST(smollm2) {
  const char* model = std::getenv("FOVEAL_SMOLLM2");
  if (!model) {
    std::printf("skipped: FOVEAL_SMOLLM2 doesn't name SmolLM2-135M-Instruct's GGUF\n");
    return;
  }
  const auto t = Tokenizer::load(*Gguf::open(model));
  const std::string json = read(data / "text" / "smollm2_135m_q4_1.json");
  int checked = 0;
  for (size_t at = json.find("\"cases\""); json.find("\"text\":", at) != json.npos; ++checked) {
    const std::string text = next_string(json, "text", at);
    CHECK_EQ(t->encode(text, true), next_ids(json, "tokens", at));
  }
  CHECK(checked >= 3);
  CHECK_EQ(t->n_vocab(), 49152);
  CHECK(!t->add_bos() && t->is_eog(2) && t->is_eog(0) && !t->is_eog(1));
  // ids by the `tokenizers` library
  CHECK_EQ(
      t->encode("def f(x):\n    return x**2  # \xE5\xB9\xB3\xE6\x96\xB9 42\n", false),
      (Ids{1604, 275, 24, 104, 727, 472, 1003, 1792, 828, 34, 216, 907, 13223, 134, 128, 46940, 216, 36, 34, 198}));
}
