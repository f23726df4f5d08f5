// Decoder blocks on a very small model: the same numbers for one chunk or many, fused or separate weights, prefill or
// decode; what is scaled, tied, windowed. The families' own numbers are checked against the originals from Python.
#include <algorithm>

#include "engine/models/text_model.h"
#include "tests/check.h"
#include "tests/models/small_model.h"

using namespace foveal;
using gguf_writer::Document;

namespace {

// One layer's rows, kept whole.
class WholeKv final : public LayerKv {
 public:
  WholeKv(Backend& backend, const TextParams& p, int64_t capacity)
      : backend_(backend), params_(p), rows_(2 * static_cast<size_t>(capacity * p.head_dim * p.n_head_kv)) {
    const int64_t size = capacity * p.head_dim;
    for (int64_t ih = 0; ih < p.n_head_kv; ++ih)
      heads_.push_back({rows_.data() + 2 * ih * size, rows_.data() + (2 * ih + 1) * size, 0});
  }
  void attend(Mat out, ConstMat q, ConstMat k, ConstMat v) override {
    std::vector<int32_t> hi(static_cast<size_t>(q.rows));
    for (size_t i = 0; i < hi.size(); ++i) hi[i] = static_cast<int32_t>(i) + 1;
    backend_.append_kv(heads_, KvType::F32, k, v, params_.head_dim);
    for (KvHead& h : heads_) h.len += q.rows;
    if (decode_) {
      backend_.attend_ragged(out, q, heads_, KvType::F32, params_.head_dim, params_.attend);
    } else {
      backend_.attend_prefill(out, q, heads_, q.rows, nullptr, hi.data(), params_.head_dim, params_.attend);
    }
  }
  bool decode_ = false;

 private:
  Backend& backend_;
  const TextParams& params_;
  Buffer<float> rows_;
  std::vector<KvHead> heads_;
};

struct Run {
  explicit Run(const Document& d) : bytes(d.bytes()), backend(make_cpu_backend(1)) {
    model = load_text_model(Gguf::parse(bytes, "small.gguf"), *backend);
  }
  // The last row's logits of the sequence, its rows given in chunks of these sizes.
  std::vector<float> logits(const std::vector<int64_t>& chunks, bool decode = false, bool flat_positions = true) {
    const TextParams& p = model->params();
    std::vector<WholeKv> kv;
    for (int il = 0; il < p.n_layer; ++il) kv.emplace_back(*backend, p, 64);
    Matrix out(1, p.n_vocab);
    int32_t first = 0;
    for (const int64_t t : chunks) {
      std::vector<int32_t> ids;
      std::vector<Position> pos;
      for (int32_t i = first; i < first + t; ++i) {
        ids.push_back((i * 7 + 3) % p.n_vocab);
        pos.push_back({i, flat_positions ? i : i / 2, flat_positions ? i : i % 2});
      }
      Matrix x(t, p.n_embd);
      LayerScratch scratch(p, t + 3);  // larger than needed
      model->embed(x.view(), ids);
      std::vector<Matrix> rope;
      for (int table = 0; table < p.n_rope_tables; ++table) {
        rope.emplace_back(t, p.n_rot);
        model->rope_rows(rope.back().view(), pos, table);
      }
      std::vector<ConstMat> tables;
      for (Matrix& m : rope) tables.push_back(m.view());
      for (int il = 0; il < p.n_layer; ++il) {
        kv[static_cast<size_t>(il)].decode_ = decode;
        model->layer(il, x.view(), tables, kv[static_cast<size_t>(il)], scratch);
      }
      model->head(out.view(), x.view().rows_at(t - 1, 1));
      first += static_cast<int32_t>(t);
    }
    return {out.view().data, out.view().data + p.n_vocab};
  }
  gguf_writer::Bytes bytes;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<TextModel> model;
};

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double d = 0, n = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    d += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    n += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(d / n);
}

SmallModel small(const std::string& arch) {
  SmallModel m;
  m.arch = arch;
  m.qkv_bias = arch == "qwen2" || arch == "qwen2vl";
  m.qk_norm = arch == "qwen3" || arch == "qwen3vl" || arch == "gemma3";
  m.post_norms = arch == "gemma3";
  return m;
}

const char* const kArchs[] = {"llama", "qwen2", "qwen2vl", "qwen3", "qwen3vl", "gemma3"};

}  // namespace

TEST(chunks_and_decode_give_the_same) {
  for (const char* arch : kArchs) {
    Run run(small(arch).document());
    const std::vector<float> whole = run.logits({17});
    CHECK(distance(run.logits({1, 7, 9}), whole) < 1e-5);
    CHECK(distance(run.logits(std::vector<int64_t>(17, 1)), whole) < 1e-5);
    CHECK(distance(run.logits(std::vector<int64_t>(17, 1), true), whole) < 1e-5);
    CHECK(distance(run.logits({16}), whole) > 1e-3);  // another row
  }
}

TEST(fused_weights_equal_separate_ones) {
  for (const char* arch : kArchs) {
    SmallModel m = small(arch);
    const std::vector<float> separate = Run(m.document()).logits({9});
    m.fused = true;
    CHECK(distance(Run(m.document()).logits({9}), separate) < 1e-6);
  }
}

TEST(optional_biases_count) {
  SmallModel m = small("llama");
  const std::vector<float> without = Run(m.document()).logits({5});
  const std::pair<const char*, int64_t> biases[] = {
      {"blk.1.attn_k.bias", 16},   {"blk.1.attn_v.bias", 16}, {"blk.1.attn_output.bias", 32},
      {"blk.1.ffn_gate.bias", 48}, {"blk.1.ffn_up.bias", 48}, {"blk.1.ffn_down.bias", 32},
      {"output.bias", 40}};
  for (const auto& [name, n] : biases) {
    Document d = m.document();
    d.tensor(name, {n}, 0, SmallModel::numbers(name, n));
    CHECK(distance(Run(d).logits({5}), without) > 1e-3);
    d = m.document();
    d.floats(name, {n}, 0);
    CHECK(distance(Run(d).logits({5}), without) < 1e-6);
  }
}

TEST(an_output_matrix_of_its_own_is_used) {
  const SmallModel m = small("qwen3");
  const std::vector<float> tied = Run(m.document()).logits({5});
  Document d = m.document();
  d.tensor("output.weight", {32, 40}, 0, SmallModel::numbers("token_embd.weight", 32 * 40));
  CHECK(distance(Run(d).logits({5}), tied) < 1e-7);
  d = m.document();
  d.tensor("output.weight", {32, 40}, 0, SmallModel::numbers("other", 32 * 40));
  CHECK(distance(Run(d).logits({5}), tied) > 1e-2);
}

TEST(positions_of_pictures_count_where_they_should) {
  for (const char* arch : kArchs) {
    Run run(small(arch).document());
    const double moved = distance(run.logits({9}, false, false), run.logits({9}));
    if (std::string(arch).ends_with("vl")) CHECK(moved > 1e-4);
    if (!std::string(arch).ends_with("vl")) CHECK_EQ(moved, 0.0);
  }
}

TEST(gemma3_scales_tokens_and_caps_logits) {
  Document d = small("gemma3").document();
  Run run(d);
  Matrix x(1, 32);
  const int32_t id = 5;
  run.model->embed(x.view(), {&id, 1});
  const gguf_writer::Bytes table = SmallModel::numbers("token_embd.weight", 32 * 40);
  for (int i = 0; i < 32; ++i) {
    float value;
    std::memcpy(&value, table.data() + (5 * 32 + i) * 4, 4);
    CHECK_NEAR(x.view().data[i], static_cast<double>(value) * std::sqrt(32.0), 1e-6);
  }
  const std::vector<float> free = run.logits({5});
  d.f32("gemma3.final_logit_softcapping", 0.5f);
  const std::vector<float> capped = Run(d).logits({5});
  for (size_t i = 0; i < capped.size(); ++i)
    CHECK_NEAR(capped[i], 0.5 * std::tanh(static_cast<double>(free[i]) / 0.5), 1e-6);
}

TEST(llama3_factors_are_used) {
  Document d = small("llama").document();
  const std::vector<float> without = Run(d).logits({12});
  d.floats("rope_freqs.weight", {4}, 1);
  CHECK_EQ(distance(Run(d).logits({12}), without), 0.0);
  d.tensors.pop_back();
  d.floats("rope_freqs.weight", {4}, 8);
  CHECK(distance(Run(d).logits({12}), without) > 1e-3);
  for (const float bad : {0.0f, -1.0f, std::nanf("")}) {
    d.tensors.pop_back();
    d.floats("rope_freqs.weight", {4}, bad);
    CHECK_THROWS(Error, "'rope_freqs.weight'", Run(d).logits({12}));
  }
}
