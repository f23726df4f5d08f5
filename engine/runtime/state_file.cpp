// Session files: magic, version, fingerprint, options, rows, cache, window queries, conversation, and a SHA-256 over
// all of it at the end. Reading builds a new session: nothing is half restored.
#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "engine/core/mapped_file.h"
#include "engine/core/sha256.h"
#include "engine/runtime/session.h"
#include "engine/runtime/state_io.h"

namespace foveal {

static_assert(std::endian::native == std::endian::little, "session files are written as the memory lies");

namespace {

constexpr char kMagic[8] = {'F', 'O', 'V', 'E', 'A', 'L', 'K', 'V'};
constexpr uint32_t kVersion = 3;
constexpr size_t kDigest = 32;

std::array<uint8_t, 32> digest_of(std::span<const uint8_t> bytes) {
  Sha256 sha;
  sha.update(bytes);
  return sha.finish();
}

std::string short_hex(std::span<const uint8_t> hash) {
  static const char* digits = "0123456789abcdef";
  std::string out;
  for (size_t i = 0; i < 8; ++i) {
    out += digits[hash[i] >> 4];
    out += digits[hash[i] & 15];
  }
  return out;
}

void write_options(StateWriter& out, const KvOptions& o) {
  out.value<int64_t>(static_cast<int64_t>(o.budget.kind));
  out.value(o.budget.value);
  for (const int64_t v : {static_cast<int64_t>(o.policy), static_cast<int64_t>(o.mix), int64_t{o.window},
                          int64_t{o.sinks}, static_cast<int64_t>(o.scope), int64_t{o.slack},
                          static_cast<int64_t>(o.dtype), static_cast<int64_t>(o.on_full)})
    out.value(v);
  out.value(o.seed);
  out.value<uint8_t>(o.shadow);
  out.text(o.tables);
  out.text(pins_text(o.pin));
}

KvOptions read_options(StateReader& in) {
  KvOptions o;
  o.budget.kind = static_cast<Budget::Kind>(in.number("budget kind", 0, Budget::automatic));
  o.budget.value = in.value<double>();
  if (!std::isfinite(o.budget.value)) in.bad("budget", 0, 0, INT64_MAX);
  o.policy = static_cast<Policy>(in.number("policy", 0, static_cast<int64_t>(Policy::random)));
  o.mix = static_cast<Mix>(in.number("mix", 0, static_cast<int64_t>(Mix::sharp)));
  o.window = static_cast<int>(in.number("window", 0, 1 << 20));
  o.sinks = static_cast<int>(in.number("sinks", 0, 1 << 24));
  o.scope = static_cast<Scope>(in.number("scope", 0, static_cast<int64_t>(Scope::image)));
  o.slack = static_cast<int>(in.number("slack", 0, 1 << 24));
  const int64_t type = in.number("KV type", 0, 8);
  if (type != 0 && type != 1 && type != 2 && type != 8) in.bad("KV type", type, 0, 8);
  o.dtype = static_cast<KvType>(type);
  o.on_full = static_cast<OnFull>(in.number("on_full", 0, static_cast<int64_t>(OnFull::error)));
  o.seed = in.value<uint64_t>();
  o.shadow = in.value<uint8_t>() != 0;
  o.tables = in.text("tables", 4096);
  o.pin = parse_pins(in.text("pin", 16384));
  check_kv_options(o);
  return o;
}

void check_ascending(const StateReader& in, std::span<const int32_t> index, int64_t n_rows) {
  for (size_t i = 0; i < index.size(); ++i)
    if (index[i] < 0 || index[i] >= n_rows || (i > 0 && index[i] <= index[i - 1]))
      in.bad("token index of a kept row", index[i], 0, n_rows - 1);
}

}  // namespace

void SessionImpl::write_state(StateWriter& out) const {
  write_options(out, kv_);
  out.value(n_ctx_);
  out.list(std::span<const int32_t>(tokens_));
  out.list(std::span<const Position>(positions_));
  out.list(std::span<const int32_t>(image_of_));
  out.value<uint64_t>(seen_images_.size());
  for (const SeenImage& image : seen_images_) {
    out.value(image.first_row);
    out.value<int64_t>(image.plan.width);
    out.value<int64_t>(image.plan.height);
    out.bytes(image.hash.data(), image.hash.size());
  }
  out.value<uint64_t>(pins_.size());
  for (const auto& pin : pins_) out.value(pin.first), out.value(pin.second);
  out.value(system_rows_);
  out.value(newest_prompt_.first), out.value(newest_prompt_.second);
  out.value(next_pos_);
  out.value(evicted_before_);
  out.value(budget_);
  out.value(auto_rows_);
  out.value<uint8_t>(evicted_by_hand_);
  out.value<uint64_t>(turns_.size());
  for (const Turn& turn : turns_)
    for (const int64_t v : {turn.first_row, turn.n_messages, turn.n_images, turn.unstepped}) out.value(v);
  out.value<uint64_t>(prefills_.size());
  for (const Prefill& prefill : prefills_)
    for (const int64_t v : {prefill.first, prefill.stop, prefill.newest}) out.value(v);
  out.list(std::span<const float>(table_scores_));
  out.list(std::span<const float>(table_r_));
  out.list(std::span<const int64_t>(evict_above_));
  out.list(std::span<const float>(r_));
  out.list(std::span<const float>(kept_mass_));
  const size_t row = store_->row_bytes() / 2;
  for (int il = 0; il < params().n_layer; ++il) {
    const QueryRing& ring = rings_[static_cast<size_t>(il)];
    std::vector<float> q;
    std::vector<int32_t> index;
    ring.read(ring.size(), 1, int64_t{params().n_head} * params().head_dim, q, index);
    out.list(std::span<const int32_t>(index));
    out.bytes(q.data(), q.size() * sizeof(float));
    for (int ih = 0; ih < params().n_head_kv; ++ih) {
      const KvHead head = store_->heads(il)[static_cast<size_t>(ih)];
      out.list(store_->token_index(il, ih));
      const size_t bytes = static_cast<size_t>(head.len) * row;
      for (const void* rows : {head.k, head.v}) {
        Buffer<uint8_t> copy(store_->backend(il).memory() ? bytes : 0);
        if (copy.size() > 0) store_->backend(il).copy_out(copy.data(), rows, bytes);
        out.bytes(copy.size() > 0 ? copy.data() : rows, bytes);
      }
    }
  }
  out.value<uint8_t>(has_logits_);
  if (has_logits_) out.bytes(logits_.view().data, logits_.bytes());
  out.value<int64_t>(unstepped_.value_or(-1));
  const std::vector<Message> messages = conversation();
  out.value<uint64_t>(messages.size());
  for (const Message& m : messages) {
    out.text(m.role);
    out.value<uint64_t>(m.content.size());
    for (const ContentPart& part : m.content) {
      out.value<int64_t>(part.kind);
      out.text(part.value);
      out.value<int64_t>(part.image_index);
    }
  }
  out.list(std::span<const ImageId>(chat_images_));
}

void SessionImpl::save(const std::string& path) const {
  const Use use(*this);
  StateWriter out;
  out.bytes(kMagic, sizeof kMagic);
  out.value(kVersion);
  out.bytes(model_->fingerprint().data(), 32);
  out.text(cat(params().arch, " '", params().name, "'"));
  write_state(out);
  const auto digest = digest_of(out.data());
  out.bytes(digest.data(), digest.size());
  write_file_atomically(path, out.data());
}

void SessionImpl::read_cache(StateReader& in) {
  const auto layers = static_cast<uint64_t>(params().n_layer), heads = static_cast<uint64_t>(params().n_head_kv);
  evict_above_ = in.list<int64_t>("eviction thresholds", layers);
  for (const int64_t rows : evict_above_)
    if (rows < 0) in.bad("eviction threshold", rows, 0, INT64_MAX);
  r_ = in.list<float>("r", layers * heads);
  kept_mass_ = in.list<float>("kept mass", layers * heads);
  if (evict_above_.size() != layers || (r_.size() != 0 && r_.size() != layers * heads) ||
      kept_mass_.size() != r_.size())
    in.bad("values a layer", static_cast<int64_t>(evict_above_.size()), static_cast<int64_t>(layers),
           static_cast<int64_t>(layers));
  const auto row = static_cast<uint64_t>(store_->row_bytes() / 2);
  const int64_t width = int64_t{params().n_head} * params().head_dim;
  for (int il = 0; il < params().n_layer; ++il) {
    QueryRing& ring = rings_[static_cast<size_t>(il)];
    const auto index = in.list<int32_t>("window queries", static_cast<uint64_t>(ring.capacity()));
    check_ascending(in, index, n_rows());
    const uint64_t bytes = static_cast<uint64_t>(width) * sizeof(float);
    std::vector<float> q(static_cast<size_t>(width));
    for (const int32_t i : index) {
      std::memcpy(q.data(), in.take(bytes), bytes);
      ring.push(q.data(), i, true);
    }
    for (int ih = 0; ih < params().n_head_kv; ++ih) {
      const auto rows = in.list<int32_t>("kept rows", static_cast<uint64_t>(store_->shape().max_rows));
      check_ascending(in, rows, n_rows());
      const uint64_t n = rows.size();
      if (!evictable(il)) {  // what slides has lost nothing in between, in all heads alike
        const int64_t first = n_rows() - static_cast<int64_t>(n);
        if (n > 0 && rows[0] != first) in.bad("first row of a sliding window", rows[0], first, first);
        if (ih > 0 && static_cast<int64_t>(n) != store_->len(il, 0))
          in.bad("rows of a sliding window", static_cast<int64_t>(n), store_->len(il, 0), store_->len(il, 0));
      }
      // Session files are mapped read-only; copy_in() reads the rows only.
      KvHead head;
      head.k = const_cast<uint8_t*>(in.take(n * row));
      head.v = const_cast<uint8_t*>(in.take(n * row));
      head.len = static_cast<int64_t>(n);
      store_->copy_in(il, ih, head, rows);
    }
  }
}

void SessionImpl::read_state(StateReader& in) {
  read_rows(in);
  read_cache(in);
  has_logits_ = in.value<uint8_t>() != 0;
  if (has_logits_) std::memcpy(logits_.view().data, in.take(logits_.bytes()), logits_.bytes());
  const int64_t unstepped = in.number("pending token", -1, params().n_vocab - 1);
  if (unstepped >= 0) unstepped_ = static_cast<int32_t>(unstepped);
  const int64_t n_messages = in.number("messages", 0, 1 << 20);
  for (int64_t i = 0; i < n_messages; ++i) {
    Message m;
    m.role = in.text("role", 64);
    const int64_t n_parts = in.number("parts of a message", 0, 1 << 20);
    for (int64_t k = 0; k < n_parts; ++k) {
      ContentPart part;
      part.kind = static_cast<ContentPart::Kind>(in.number("kind of a part", 0, 1));
      part.value = in.text("text of a message", uint64_t{1} << 30);
      part.image_index =
          static_cast<int>(in.number("picture of a part", -1, part.kind == ContentPart::image ? 1 << 20 : -1));
      m.content.push_back(std::move(part));
    }
    chat_messages_.push_back(std::move(m));
  }
  chat_images_ = in.list<ImageId>("pictures of the conversation", 1 << 20);
  if (in.left() != 0) in.bad("bytes after the end", static_cast<int64_t>(in.left()), 0, 0);
}

std::unique_ptr<SessionImpl> SessionImpl::load(std::shared_ptr<const ModelImpl> model, const std::string& path) {
  const auto file = MappedFile::open(path);
  const auto bytes = file->bytes();
  if (bytes.size() < sizeof kMagic || std::memcmp(bytes.data(), kMagic, sizeof kMagic) != 0)
    fail(ErrorCode::file_format, path, ": not a session file (it doesn't begin with 'FOVEALKV')");
  if (bytes.size() < sizeof kMagic + sizeof kVersion + kDigest)
    fail(ErrorCode::file_format, path, ": found ", bytes.size(), " bytes, too short for a session file");
  uint32_t version;
  std::memcpy(&version, bytes.data() + sizeof kMagic, sizeof version);
  const auto body = bytes.first(bytes.size() - kDigest);
  const auto digest = digest_of(body);
  if (std::memcmp(digest.data(), bytes.data() + body.size(), kDigest) != 0)
    fail(ErrorCode::file_format, path, ": the checksum doesn't fit the contents: the file is damaged or cut short");
  if (version != kVersion)
    fail(ErrorCode::mismatch, path, ": saved by format ", version, ", this program reads format ", kVersion);
  StateReader in(body.subspan(sizeof kMagic + sizeof kVersion), path);
  const std::span<const uint8_t> print(in.take(32), 32);
  const std::string name = in.text("model name", 4096);
  if (!std::equal(print.begin(), print.end(), model->fingerprint().begin()))
    fail(ErrorCode::mismatch, path, ": saved with model and mmproj ", short_hex(print), " (", quoted(name),
         "), opened with ", short_hex(model->fingerprint()), " (", model->text().params().arch, " ",
         quoted(model->text().params().name), "): expected the same files");
  try {
    KvOptions kv = read_options(in);
    const std::string tables = std::exchange(kv.tables, "");  // their numbers are in the file: no path is opened
    const int64_t n_ctx = in.number("n_ctx", 1, int64_t{1} << 24);
    auto session = std::make_unique<SessionImpl>(std::move(model), kv, n_ctx);
    session->kv_.tables = tables;
    session->read_state(in);
    return session;
  } catch (const Error& e) {  // values that no saved session has, refused by whatever took them
    if (e.code() == ErrorCode::file_format || e.code() == ErrorCode::out_of_memory) throw;
    fail(ErrorCode::file_format, path, ": ", e.what());
  }
}

}  // namespace foveal
