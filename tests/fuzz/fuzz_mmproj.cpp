// Fuzz target: a damaged mmproj file beside a good text model: loading, the plan for pictures of five sizes, and for
// small ones preprocessing and every operation of the encoder, on a backend that checks instead of computing.
#include "engine/vision/vision.h"
#include "tests/fuzz/checking_backend.h"
#include "tests/fuzz/fixtures.h"

namespace {

using fuzz::Document;
using gguf_writer::KeyValue;

constexpr const char* kFamilies[] = {"qwen2vl",   "qwen25vl",  "qwen3vl", "llava15",
                                     "llavanext", "internvl3", "smolvlm", "gemma3"};

constexpr const char* kKeys[] = {"clip.projector_type",
                                 "clip.vision.projector_type",
                                 "clip.has_vision_encoder",
                                 "clip.use_gelu",
                                 "clip.use_silu",
                                 "clip.vision.image_size",
                                 "clip.vision.patch_size",
                                 "clip.vision.embedding_length",
                                 "clip.vision.feed_forward_length",
                                 "clip.vision.block_count",
                                 "clip.vision.attention.head_count",
                                 "clip.vision.attention.layer_norm_epsilon",
                                 "clip.vision.image_mean",
                                 "clip.vision.image_std",
                                 "clip.vision.spatial_merge_size",
                                 "clip.vision.n_wa_pattern",
                                 "clip.vision.window_size",
                                 "clip.vision.wa_layer_indexes",
                                 "clip.vision.is_deepstack_layers",
                                 "clip.vision.image_min_pixels",
                                 "clip.vision.image_max_pixels",
                                 "clip.vision.projector.scale_factor",
                                 "clip.vision.preproc_image_size",
                                 "clip.vision.preproc_min_tiles",
                                 "clip.vision.preproc_max_tiles",
                                 "clip.vision.image_grid_pinpoints",
                                 "clip.vision.mm_patch_merge_type",
                                 "clip.vision.feature_layer"};

constexpr int kShrink = 8;  // widths; patches become 2x2 pixels

struct Size {
  int width, height;
};
constexpr Size kSizes[] = {{1, 1}, {64, 48}, {640, 480}, {3000, 20}, {2, 16384}};

uint32_t number(const KeyValue& entry) {
  uint32_t value;
  std::memcpy(&value, entry.value.data(), sizeof(value));
  return value;
}

void divide(Document& d, const std::string& key, uint32_t by) {
  for (KeyValue& e : d.entries) {
    if (e.key == key) d.u32(key, number(e) / by);
  }
}

// The fixture's encoder with an eighth of its width, so that a run takes microseconds.
Document shrunk(const std::string& family) {
  Document d = fuzz::fixture(family + "/mmproj-f16.gguf");
  uint32_t patch = 14;
  for (const KeyValue& e : d.entries) {
    if (e.key == "clip.vision.patch_size") patch = number(e);
  }
  for (const char* key : {"embedding_length", "feed_forward_length", "projection_dim"}) {
    divide(d, std::string("clip.vision.") + key, kShrink);
  }
  for (const char* key : {"image_size", "preproc_image_size", "patch_size"}) {
    divide(d, std::string("clip.vision.") + key, patch / 2);
  }
  d.u32("clip.vision.attention.head_count", 1);
  if (family == "llavanext") {
    d.array<int32_t>("clip.vision.image_grid_pinpoints", gguf_writer::I32, {12, 24, 24, 12, 24, 24});
  }
  for (gguf_writer::Tensor& t : d.tensors) {
    const bool patches = t.name.starts_with("v.patch_embd.weight"), places = t.name.starts_with("v.position_embd");
    int64_t elements = 1;
    for (size_t i = 0; i < t.ne.size(); ++i) {
      if (patches && i < 2) t.ne[i] = 2;
      if (t.ne[i] >= 96 && !(places && i == 1)) t.ne[i] /= kShrink;
      elements *= t.ne[i];
    }
    t.type = 0;
    t.data.assign(static_cast<size_t>(elements) * 4, 0x3C);
  }
  return d;
}

// The text model's header, its width divided likewise.
fuzz::Bytes shrunk_text(const std::string& family) {
  Document d = fuzz::header_of(family);
  std::erase_if(d.entries, [](const KeyValue& e) { return e.key.starts_with("tokenizer."); });
  for (const KeyValue& e : std::vector<KeyValue>(d.entries)) {
    if (e.key.ends_with(".embedding_length")) divide(d, e.key, kShrink);
  }
  return d.bytes();
}

const std::vector<Document>& seeds() {
  static const std::vector<Document> all = [] {
    std::vector<Document> out;
    for (const char* family : kFamilies) out.push_back(shrunk(family));
    return out;
  }();
  return all;
}

// The text file that goes with an mmproj's projector; the first one for any other.
const foveal::Gguf& text_for(const foveal::Gguf& mmproj) {
  static const std::vector<fuzz::Bytes> bytes = [] {
    std::vector<fuzz::Bytes> out;
    for (const char* family : kFamilies) out.push_back(shrunk_text(family));
    return out;
  }();
  static const std::vector<std::shared_ptr<const foveal::Gguf>> files = [] {
    std::vector<std::shared_ptr<const foveal::Gguf>> out;
    for (const fuzz::Bytes& b : bytes) out.push_back(foveal::Gguf::parse(b, "text.gguf"));
    return out;
  }();
  static const char* projectors[] = {"qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger", "mlp", "mlp",
                                     "internvl",       "idefics3",         "gemma3"};
  const std::string* name = mmproj.find_string("clip.projector_type");
  for (size_t i = 0; name && i < files.size(); ++i) {
    if (*name == projectors[i]) return *files[i];
  }
  return *files[0];
}

void check_plan(const foveal::ImagePlan& plan) {
  int rows = 0;
  for (const foveal::ImagePiece& piece : plan.pieces) {
    if (piece.n_rows == 0) continue;
    FUZZ_REQUIRE(piece.first_row == rows && piece.n_rows > 0);
    rows += piece.n_rows;
  }
  FUZZ_REQUIRE(plan.n_rows >= 1 && rows == plan.n_rows);
  FUZZ_REQUIRE(plan.boxes.size() == static_cast<size_t>(plan.n_rows) && plan.scratch_bytes >= 0);
  FUZZ_REQUIRE(plan.grid_rows >= 0 && plan.grid_cols >= 0 && plan.n_tiles >= 1);
}

void encode(const foveal::VisionEncoder& encoder, const Size& size, const foveal::ImagePlan& plan) {
  static const std::vector<uint8_t> pixels(size_t{3} * 64 * 64, 0x80);
  if (int64_t{3} * size.width * size.height > static_cast<int64_t>(pixels.size())) return;
  if (plan.scratch_bytes > 2 << 20 || int64_t{plan.resized_width} * plan.resized_height > 1 << 14) return;
  const auto tiles = encoder.preprocess({pixels.data(), size.width, size.height, int64_t{3} * size.width}, plan);
  const foveal::Matrix rows = encoder.encode(tiles, plan, nullptr);
  FUZZ_REQUIRE(rows.rows() == plan.n_rows && rows.cols() == encoder.row_width());
}

// Loads the encoder; for every size the plan and, where that's little work, the whole encoding.
void use_file(std::span<const uint8_t> bytes) {
  fuzz::CheckingBackend backend;
  const auto file = foveal::Gguf::parse(bytes, "mmproj.gguf");
  const auto encoder = foveal::load_vision(file, text_for(*file), backend, {});
  ++fuzz::accepted;
  encoder->preprocessing_id();
  for (const Size& size : kSizes) {
    try {
      const foveal::ImagePlan plan = encoder->plan(size.width, size.height);
      check_plan(plan);
      encode(*encoder, size, plan);
    } catch (const foveal::Error&) {
    }
  }
}

}  // namespace

// Reads the fixtures before the first run is timed.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  seeds();
  const fuzz::Bytes empty = Document().bytes();
  text_for(*foveal::Gguf::parse(empty, "empty.gguf"));
  for (const Document& seed : seeds()) {
    const fuzz::Bytes bytes = seed.bytes();
    use_file(bytes);  // throws if a seed is refused
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return fuzz::mutate_file(data, size, max_size, seed, seeds(), kKeys);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    use_file({data, size});
  } catch (const foveal::Error&) {
  }
  return 0;
}
