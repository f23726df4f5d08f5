// KvOptions from the words of the Python face, and the statistics that come back.
#include "bind.h"

namespace foveal::python {
namespace {

KvOptions make_options(const std::string& budget, const std::string& policy, const std::string& mix, int window,
                       int sinks, const std::string& scope, int slack, const nb::bytes& tables, uint64_t seed,
                       const std::string& dtype, const std::string& on_full, bool shadow, const std::string& pin) {
  KvOptions o;
  o.budget = parse_budget(budget);
  o.policy = policy_from_name(policy);
  o.mix = mix_from_name(mix);
  o.window = window;
  o.sinks = sinks;
  o.scope = scope_from_name(scope);
  o.slack = slack;
  o.tables = from_bytes(tables);
  o.seed = seed;
  o.dtype = kv_type_from_name(dtype);
  o.on_full = on_full_from_name(on_full);
  o.shadow = shadow;
  o.pin = parse_pins(pin);
  check_kv_options(o);
  return o;
}

}  // namespace

nb::dict kv_stats(const KvStats& s) {
  nb::dict d;
  d["rows_min"] = s.rows_min;
  d["rows_mean"] = s.rows_mean;
  d["rows_max"] = s.rows_max;
  d["bytes"] = s.bytes;
  d["bytes_without_eviction"] = s.bytes_without_eviction;
  d["bytes_peak"] = s.bytes_peak;
  d["budget_rows"] = s.budget_rows;
  d["evictions"] = s.evictions;
  d["r"] = s.r;
  d["kept_mass"] = s.kept_mass;
  return d;
}

nb::dict kv_options(const KvOptions& o) {
  nb::dict d;
  d["budget"] = budget_text(o.budget);
  d["policy"] = policy_name(o.policy);
  d["mix"] = mix_name(o.mix);
  d["window"] = o.window;
  d["sinks"] = o.sinks;
  d["scope"] = scope_name(o.scope);
  d["slack"] = o.slack;
  d["tables"] = to_bytes(o.tables);
  d["seed"] = o.seed;
  d["dtype"] = kv_type_name(o.dtype);
  d["on_full"] = on_full_name(o.on_full);
  d["shadow"] = o.shadow;
  d["pin"] = pins_text(o.pin);
  return d;
}

void bind_kv(nb::module_& m) {
  nb::class_<KvOptions>(m, "KvOptions", "Checked options of the KV cache.")
      .def(nb::new_(&make_options), nb::arg("budget"), nb::arg("policy"), nb::arg("mix"), nb::arg("window"),
           nb::arg("sinks"), nb::arg("scope"), nb::arg("slack"), nb::arg("tables"), nb::arg("seed"), nb::arg("dtype"),
           nb::arg("on_full"), nb::arg("shadow"), nb::arg("pin"));
}

}  // namespace foveal::python
