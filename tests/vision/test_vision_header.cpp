// mmproj headers that must be refused before any weight is read, each with the error that names what is wrong.
#include <functional>
#include <limits>

#include "tests/check.h"
#include "tests/vision/mmproj.h"

using namespace foveal;
using gguf_writer::Document;
using mmproj::Loaded;

namespace {

constexpr ErrorCode kFormat = ErrorCode::file_format, kUnsupported = ErrorCode::unsupported,
                    kMismatch = ErrorCode::mismatch;

struct Case {
  const char* family;
  ErrorCode code;
  std::vector<const char*> parts;  // all in the message
  std::function<void(Document& mmproj, Document& text)> change;
};

void expect(const Case& c) {
  Document mmproj = mmproj::file(c.family), text = mmproj::text(c.family);
  c.change(mmproj, text);
  try {
    Loaded loaded(mmproj, text);
    check::failed(__FILE__, __LINE__, cat(c.family, ": accepted, expected '", c.parts[0], "'"));
  } catch (const Error& e) {
    if (e.code() != c.code) check::failed(__FILE__, __LINE__, cat(c.family, ": other code: ", e.what()));
    for (const char* part : c.parts) {
      if (!std::strstr(e.what(), part))
        check::failed(__FILE__, __LINE__, cat("message lacks '", part, "': ", e.what()));
    }
  }
  Loaded good(c.family);
  CHECK(good->plan(16, 16).n_rows > 0);
}

auto u32(const char* key, uint32_t value) {
  return [=](Document& m, Document&) { m.u32(key, value); };
}
auto floats(const char* key, std::vector<float> values) {
  return [=](Document& m, Document&) { m.array<float>(key, gguf_writer::F32, values); };
}
void drop_tensor(Document& d, const std::string& name) {
  std::erase_if(d.tensors, [&](const auto& t) { return t.name == name; });
}
void reshape(Document& d, const std::string& name, const std::vector<int64_t>& ne) {
  drop_tensor(d, name);
  mmproj::weights(d, name, ne);
}

}  // namespace

TEST(files_in_the_wrong_place) {
  expect({"gemma3",
          kUnsupported,
          {"mmproj.gguf", "'gemma3'", "did you swap the two files?"},
          [](Document& m, Document& t) { m = t; }});
  expect({"gemma3", kUnsupported, {"mmproj.gguf", "did you swap the two files?"}, [](Document& m, Document& t) {
            std::swap(m, t);
          }});
  expect({"gemma3",
          kUnsupported,
          {"text.gguf", "mmproj file", "did you swap the two files?"},
          [](Document& m, Document& t) { t = m; }});
  expect(
      {"gemma3", kUnsupported, {"no architecture"}, [](Document& m, Document&) { m.remove("general.architecture"); }});
}

TEST(projector_types) {
  const char* known = "'qwen2vl_merger', 'qwen2.5vl_merger', 'qwen3vl_merger', 'mlp', 'internvl', 'idefics3', 'gemma3'";
  expect({"gemma3", kUnsupported, {"'resampler'", known}, [](Document& m, Document&) {
            m.string("clip.projector_type", "resampler");
          }});
  expect({"gemma3", kUnsupported, {"missing", known}, [](Document& m, Document&) { m.remove("clip.projector_type"); }});
  expect({"gemma3", kUnsupported, {"only an audio encoder"}, [](Document& m, Document&) {
            m.remove("clip.has_vision_encoder").number<uint8_t>("clip.has_audio_encoder", gguf_writer::BOOL, 1);
          }});
  expect({"gemma3", kUnsupported, {"no vision encoder"}, [](Document& m, Document&) {
            m.number<uint8_t>("clip.has_vision_encoder", gguf_writer::BOOL, 0);
          }});
  expect({"llava-1.5", kUnsupported, {"mm.3.weight"}, [](Document& m, Document&) {
            mmproj::weights(m, "mm.3.weight", {4, 4});
          }});
}

TEST(files_that_do_not_belong_together) {
  for (const std::string& family : mmproj::families()) {
    expect({family.c_str(),
            kMismatch,
            {"mmproj.gguf", "text.gguf", "12 numbers", "rows of 20"},
            [](Document&, Document& t) {
              const std::string arch(t.entries[0].value.begin() + 8, t.entries[0].value.end());
              t.u32(arch + ".embedding_length", 20);
            }});
  }
  for (const char* family : {"qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger", "gemma3"}) {
    expect({family, kMismatch, {family, "'llama'", "expects a text model of architecture"}, [](Document&, Document& t) {
              t = mmproj::text("internvl");
            }});
  }
  expect({"qwen3vl_merger", kMismatch, {"has 1 deepstack", "expects 3"}, [](Document&, Document& t) {
            t.u32("qwen3vl.n_deepstack_layers", 3);
          }});
}

// The mismatch is found although the file has no tensor but the projector's: nothing else was read.
TEST(a_mismatch_needs_no_weights) {
  expect({"llava-1.5", kMismatch, {"12 numbers", "20"}, [](Document& m, Document& t) {
            std::erase_if(m.tensors, [](const auto& x) { return x.name.starts_with("v."); });
            t.u32("llama.embedding_length", 20);
          }});
}

TEST(numbers_out_of_range) {
  for (const char* key : {"image_size", "patch_size", "embedding_length", "block_count", "attention.head_count"}) {
    const std::string full = std::string("clip.vision.") + key;
    for (const std::string& family : mmproj::families()) {
      for (const uint32_t value : {0u, 0x80000000u, 0xffffffffu}) {
        expect({family.c_str(), kFormat, {"mmproj.gguf", full.c_str()}, u32(full.c_str(), value)});
      }
      expect({family.c_str(), kFormat, {full.c_str()}, [&](Document& m, Document&) { m.remove(full); }});
    }
  }
  const char *scale = "clip.vision.projector.scale_factor", *wa = "clip.vision.n_wa_pattern",
             *window = "clip.vision.window_size", *merge = "clip.vision.spatial_merge_size";
  for (const uint32_t value : {0u, 0xffffffffu}) {
    for (const char* family : {"internvl", "idefics3", "gemma3"}) expect({family, kFormat, {scale}, u32(scale, value)});
    expect({"qwen2.5vl_merger", kFormat, {wa}, u32(wa, value)});
    expect({"qwen2.5vl_merger", kFormat, {window}, u32(window, value)});
    expect({"qwen3vl_merger", kFormat, {merge}, u32(merge, value)});
    expect({"internvl", kFormat, {"preproc_max_tiles"}, u32("clip.vision.preproc_max_tiles", value)});
    expect({"idefics3", kFormat, {"preproc_image_size"}, u32("clip.vision.preproc_image_size", value)});
  }
  for (const char* family : {"internvl", "idefics3", "gemma3"})
    expect({family, kFormat, {"multiple of 3"}, u32(scale, 3)});
  expect({"internvl", kFormat, {"preproc_min_tiles", "13"}, u32("clip.vision.preproc_min_tiles", 13)});
  expect({"gemma3", kFormat, {"multiple of"}, u32("clip.vision.attention.head_count", 3)});
  expect({"gemma3", kFormat, {"'clip.vision.patch_size' is 17"}, u32("clip.vision.patch_size", 17)});
  expect({"qwen2vl_merger", kFormat, {"multiple of 4"}, u32("clip.vision.attention.head_count", 4)});
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float eps : {nan, -1.0f, 2.0f}) {
    expect({"gemma3", kFormat, {"layer_norm_epsilon"}, [=](Document& m, Document&) {
              m.f32("clip.vision.attention.layer_norm_epsilon", eps);
            }});
  }
}

TEST(mean_and_std) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const std::string& family : mmproj::families()) {
    for (const char* key : {"clip.vision.image_mean", "clip.vision.image_std"}) {
      for (const size_t n : {0, 1, 2, 4}) {
        expect({family.c_str(), kFormat, {"mmproj.gguf", key, "3"}, floats(key, std::vector<float>(n, 0.5f))});
      }
      expect({family.c_str(), kFormat, {key}, floats(key, {0.5f, inf, 0.5f})});
      expect({family.c_str(), kFormat, {key}, u32(key, 3)});
      expect({family.c_str(), kFormat, {key}, [=](Document& m, Document&) { m.remove(key); }});
    }
    expect({family.c_str(), kFormat, {"image_std", "above 0"}, floats("clip.vision.image_std", {0.5f, 0.0f, 0.5f})});
    expect({family.c_str(), kFormat, {"image_std", "above 0"}, floats("clip.vision.image_std", {0.5f, -1.0f, 0.5f})});
  }
}

TEST(pixel_limits) {
  for (const char* family : {"qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger"}) {
    expect({family, kFormat, {"image_min_pixels", "4000"}, [](Document& m, Document&) {
              m.u32("clip.vision.image_min_pixels", 4000).u32("clip.vision.image_max_pixels", 3000);
            }});
    expect({family, kFormat, {"image_min_pixels", "2147395600"}, u32("clip.vision.image_min_pixels", 46340u * 46340u)});
    expect({family, kFormat, {"image_max_pixels"}, u32("clip.vision.image_max_pixels", 0)});
    Document large = mmproj::file(family);
    large.u32("clip.vision.image_max_pixels", 46340u * 46340u);
    CHECK(Loaded(large, mmproj::text(family))->plan(8000, 8000).n_rows <= 16384);
  }
}

TEST(shapes) {
  for (const char* family : {"llava-1.5", "llava-1.6", "internvl", "idefics3", "gemma3"}) {
    for (const int64_t rows : {1, 15, 18, 65}) {
      expect({family, kFormat, {"v.position_embd.weight", "[8, "}, [=](Document& m, Document&) {
                reshape(m, "v.position_embd.weight", {8, rows});
              }});
    }
  }
  expect({"qwen3vl_merger", kFormat, {"v.position_embd.weight", "[8, 10]"}, [](Document& m, Document&) {
            reshape(m, "v.position_embd.weight", {8, 10});
          }});
  for (const std::string& family : mmproj::families()) {
    expect({family.c_str(), kFormat, {"v.blk.1.attn_k.weight", "[8, 9]"}, [](Document& m, Document&) {
              reshape(m, "v.blk.1.attn_k.weight", {8, 9});
            }});
    expect({family.c_str(), kFormat, {"v.blk.1.ln2.weight"}, [](Document& m, Document&) {
              drop_tensor(m, "v.blk.1.ln2.weight");
            }});
    expect({family.c_str(), kFormat, {"v.blk.2."}, [](Document& m, Document&) {
              m.u32("clip.vision.block_count", 3);
              if (m.entries[1].value.size() == 8 + 14) {  // qwen3vl_merger marks every block
                m.array<uint8_t>("clip.vision.is_deepstack_layers", gguf_writer::BOOL, {1, 0, 0});
              }
            }});
    expect({family.c_str(), kFormat, {"v.patch_embd.weight", "[2, 2, 3, 8]"}, [](Document& m, Document&) {
              reshape(m, "v.patch_embd.weight", {2, 2, 8, 3});
            }});
  }
  expect({"qwen2vl_merger", kFormat, {"mm.2.weight"}, [](Document& m, Document&) {
            reshape(m, "mm.2.weight", {16, 12});
          }});
  expect({"qwen3vl_merger", kFormat, {"is_deepstack_layers"}, [](Document& m, Document&) {
            m.array<uint8_t>("clip.vision.is_deepstack_layers", gguf_writer::BOOL, {1, 0, 0});
          }});
  expect({"qwen3vl_merger", kFormat, {"v.deepstack.0.fc1.weight"}, [](Document& m, Document&) {
            drop_tensor(m, "v.deepstack.0.fc1.weight");
          }});
}

TEST(pinpoints) {
  const char* key = "clip.vision.image_grid_pinpoints";
  const auto points = [key](std::vector<int32_t> values) {
    return [=](Document& m, Document&) { m.array<int32_t>(key, gguf_writer::I32, values); };
  };
  expect({"llava-1.6", kFormat, {key, "pairs"}, points({8, 16, 16})});
  expect({"llava-1.6", kFormat, {key, "multiples"}, points({8, 15})});
  expect({"llava-1.6", kFormat, {key}, points({0, 8})});
  expect({"llava-1.6", kFormat, {key}, points({-8, 8})});
  expect({"llava-1.6", kFormat, {key}, points({})});
  expect({"llava-1.6", kFormat, {key, "pixels"}, points({16384, 16384})});
  expect({"llava-1.6", kUnsupported, {"mm_patch_merge_type", "'spiral'"}, [](Document& m, Document&) {
            m.string("clip.vision.mm_patch_merge_type", "spiral");
          }});
}

TEST(feature_layers) {
  const auto layers = [](std::vector<int32_t> values) {
    return [=](Document& m, Document&) { m.array<int32_t>("clip.vision.feature_layer", gguf_writer::I32, values); };
  };
  expect({"llava-1.5", kFormat, {"feature_layer"}, layers({3})});
  expect({"llava-1.5", kFormat, {"feature_layer"}, layers({-1})});
  expect({"llava-1.5", kFormat, {"mm.0.weight"}, layers({1, 2})});  // two features side by side need a wider matrix
  // After block 1 of 2 isn't after both, and two features side by side run.
  const auto encode = [](const Document& m) {
    const Loaded loaded(m, mmproj::text("llava-1.5"));
    const ImagePlan p = loaded->plan(8, 8);
    const Image gray{std::vector<uint8_t>(192, 90), 8, 8};
    const Matrix rows = loaded->encode(loaded->preprocess(gray.view(), p), p, nullptr);
    return std::vector<float>(rows.view().data, rows.view().data + rows.rows() * rows.cols());
  };
  Document all = mmproj::file("llava-1.5"), first = all, last = all, both = all;
  first.array<int32_t>("clip.vision.feature_layer", gguf_writer::I32, {1});
  last.array<int32_t>("clip.vision.feature_layer", gguf_writer::I32, {2});
  both.array<int32_t>("clip.vision.feature_layer", gguf_writer::I32, {0, 2});
  reshape(both, "mm.0.weight", {16, 16});
  CHECK(encode(all) == encode(last));
  CHECK(encode(all) != encode(first));
  CHECK_EQ(encode(both).size(), encode(all).size());
}

// Old converters exchanged the names of the two matrices of the hidden layer: the shapes decide.
TEST(exchanged_names_give_the_same_rows) {
  Document plain = mmproj::file("llava-1.5"), exchanged = plain;
  for (auto& t : exchanged.tensors) {
    const size_t up = t.name.find("ffn_up"), down = t.name.find("ffn_down");
    if (up != std::string::npos) t.name.replace(up, 6, "ffn_down");
    if (down != std::string::npos) t.name.replace(down, 8, "ffn_up");
  }
  const auto rows = [](const Document& m) {
    const Loaded loaded(m, mmproj::text("llava-1.5"));
    const ImagePlan p = loaded->plan(8, 8);
    const Image gray{std::vector<uint8_t>(192, 90), 8, 8};
    const Matrix out = loaded->encode(loaded->preprocess(gray.view(), p), p, nullptr);
    return std::vector<float>(out.view().data, out.view().data + out.rows() * out.cols());
  };
  CHECK(rows(plain) == rows(exchanged));
}
