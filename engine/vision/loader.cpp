// Reads an mmproj file's keys and tensors, every number in its range and every shape checked.
#include <algorithm>

#include "engine/vision/vit.h"

namespace foveal {

VisionHeader read_vision_header(const Gguf& file) {
  const auto number = [&](const char* key, int64_t min, int64_t max) {
    return static_cast<int>(file.get_int(cat("clip.vision.", key), min, max));
  };
  VisionHeader h;
  h.image_size = number("image_size", 1, 4096);
  h.patch = number("patch_size", 1, 256);
  h.n_embd = number("embedding_length", 1, 16384);
  h.n_layer = number("block_count", 1, 512);
  h.n_head = number("attention.head_count", 1, 1024);
  h.eps = static_cast<float>(file.get_float("clip.vision.attention.layer_norm_epsilon", 0.0, 1.0));
  if (h.n_embd % h.n_head != 0) {
    fail(ErrorCode::file_format, file.path(), ": key 'clip.vision.embedding_length' is ", h.n_embd,
         ", expected a multiple of 'clip.vision.attention.head_count', which is ", h.n_head);
  }
  if (h.patch > h.image_size) {
    fail(ErrorCode::file_format, file.path(), ": key 'clip.vision.patch_size' is ", h.patch,
         ", expected at most 'clip.vision.image_size', which is ", h.image_size);
  }
  if (h.grid() > 256) {
    fail(ErrorCode::file_format, file.path(), ": 'clip.vision.image_size' / 'clip.vision.patch_size' is ", h.grid(),
         " patches a side, expected at most 256");
  }
  if (file.find_bool("clip.use_gelu").value_or(false)) {
    h.act = Act::gelu_tanh;
  } else if (file.find_bool("clip.use_silu").value_or(false)) {
    h.act = Act::silu;
  }
  const auto triple = [&](const char* key) {
    const auto values = file.find_floats(key, 3, 3);
    if (!values) fail(ErrorCode::file_format, file.path(), ": key '", key, "' is missing, expected 3 x f32");
    std::array<float, 3> out;
    std::copy_n(values->begin(), 3, out.begin());
    return out;
  };
  h.norm = {triple("clip.vision.image_mean"), triple("clip.vision.image_std")};
  for (const float s : h.norm.std) {
    if (!(s > 0.0f)) {
      fail(ErrorCode::file_format, file.path(), ": key 'clip.vision.image_std' holds ", s,
           ", expected numbers above 0");
    }
  }
  return h;
}

void check_text_width(const Gguf& mmproj, const Gguf& text, int64_t projected) {
  const std::string key = text.get_string("general.architecture") + ".embedding_length";
  const int64_t wanted = text.get_int(key, 1, 1 << 20);
  if (projected == wanted) return;
  fail(ErrorCode::mismatch, "the two files don't belong together: ", mmproj.path(), " projects pictures to rows of ",
       projected, " numbers, ", text.path(), " has rows of ", wanted, " (", key,
       "); expected the mmproj file that was published with this text model");
}

void check_text_arch(const Gguf& mmproj, const Gguf& text, const std::string& projector,
                     std::initializer_list<const char*> archs) {
  const std::string& arch = text.get_string("general.architecture");
  std::string wanted;
  for (const char* a : archs) {
    if (arch == a) return;
    wanted += (wanted.empty() ? "" : " or ") + quoted(a);
  }
  fail(ErrorCode::mismatch, "the two files don't belong together: ", mmproj.path(), " holds a ", quoted(projector),
       " encoder, which expects a text model of architecture ", wanted, "; ", text.path(), " is ", quoted(arch));
}

Buffer<float> Loader::floats(const std::string& name, int64_t n) const {
  return backend.load_floats(file.tensor(name, {n}));
}

Buffer<float> Loader::optional_floats(const std::string& name, int64_t n) const {
  return file.find_tensor(name) ? floats(name, n) : Buffer<float>();
}

Buffer<float> Loader::table(const std::string& name, int64_t cols, int64_t rows) const {
  return backend.load_floats(file.tensor(name, {cols, rows}));
}

Buffer<float> Loader::to_host(Buffer<float> there) const {
  if (!backend.memory() || there.size() == 0) return there;
  Buffer<float> here(there.size());
  backend.copy_out(here.data(), there.data(), there.bytes());
  return here;
}

Norm Loader::norm(const std::string& prefix, int64_t n, float eps) const {
  return {floats(prefix + ".weight", n), optional_floats(prefix + ".bias", n), eps};
}

Linear Loader::linear(const std::string& prefix, int64_t in, int64_t out) const {
  return {backend.load_matrix(file.tensor(prefix + ".weight", {in, out})), optional_floats(prefix + ".bias", out)};
}

WeightPtr Loader::product(std::span<const TensorInfo* const> parts) const {
  const bool exact = precision == VisionPrecision::automatic ? !backend.has_bf16() : precision == VisionPrecision::f32;
  if (exact) return backend.load_matrix(parts);
  return backend.load_matrix_bf16(parts, precision != VisionPrecision::bf16);
}

Linear Loader::block_linear(const std::string& prefix, int64_t in, int64_t out) const {
  const TensorInfo* part = &file.tensor(prefix + ".weight", {in, out});
  return {product(std::span(&part, 1)), optional_floats(prefix + ".bias", out)};
}

int64_t Loader::outputs(const std::string& prefix, int64_t in) const {
  const TensorInfo& t = file.tensor(prefix + ".weight");
  if (t.cols() != in || t.rows() > 1 << 20) {
    fail(ErrorCode::file_format, file.path(), ": tensor ", quoted(t.name), " has shape ", t.shape(), ", expected [", in,
         ", n]");
  }
  return t.rows();
}

WeightPtr Loader::own_matrix(const std::string& name, const Buffer<float>& data, int64_t rows, int64_t cols) const {
  return backend.load_matrix(TensorInfo{.name = name,
                                        .type = TensorType::F32,
                                        .ne = {cols, rows},
                                        .data = reinterpret_cast<const uint8_t*>(data.data()),
                                        .bytes = data.bytes()});
}

Linear Loader::patch_embedding(const std::vector<std::string>& names, int64_t patch, int64_t out,
                               Buffer<float>& keep) const {
  Linear linear;
  linear.bias = optional_floats("v.patch_embd.bias", out);
  const TensorInfo& first = file.tensor(names[0], {patch, patch, 3, out});
  if (traits_of(first.type).block_elements != 1) {
    fail(ErrorCode::unsupported, file.path(), ": tensor ", quoted(first.name), " is ", traits_of(first.type).name,
         ", expected F32, F16 or BF16");
  }
  if (names.size() == 1) {
    TensorInfo matrix = first;
    matrix.ne = {3 * patch * patch, out};
    linear.weight = backend.load_matrix(matrix);
    return linear;
  }
  keep = to_host(backend.load_floats(first));
  for (size_t i = 1; i < names.size(); ++i) {
    const Buffer<float> next = to_host(backend.load_floats(file.tensor(names[i], {patch, patch, 3, out})));
    for (size_t k = 0; k < keep.size(); ++k) keep[k] += next[k];
  }
  linear.weight = own_matrix(names[0], keep, out, 3 * patch * patch);
  return linear;
}

}  // namespace foveal
