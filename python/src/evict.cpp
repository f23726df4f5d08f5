// foveal.evict.select: the session's own choice of rows, on arrays.
#include "bind.h"

namespace foveal::python {
namespace {

using Rows = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Shapes are checked by the package: k, v [n_head_kv, n, head_dim], q [n_head, window, head_dim].
nb::list select(const Rows& k, const Rows& v, const Rows& q, int64_t budget, const std::string& policy,
                const std::string& mix, int window, int kernel, int il, int n_layer, const Floats& head_weight,
                const Floats& head_scores, double floor, double beta, double rho, int sinks, uint64_t seed) {
  EvictQuery e;
  e.k = k.data();
  e.v = v.data();
  e.q = q.data();
  e.n = static_cast<int64_t>(k.shape(1));
  e.n_head = static_cast<int>(q.shape(0));
  e.n_head_kv = static_cast<int>(k.shape(0));
  e.head_dim = static_cast<int>(k.shape(2));
  e.il = il;
  e.n_layer = n_layer;
  e.window = window;
  e.kernel = kernel;
  e.sinks = sinks;
  e.budget = budget;
  e.policy = policy_from_name(policy);
  e.mix = mix_from_name(mix);
  e.floor = floor;
  e.beta = beta;
  e.rho = rho;
  e.seed = seed;
  e.head_weight = {head_weight.data(), head_weight.size()};
  e.head_scores = {head_scores.data(), head_scores.size()};
  const auto kept = without_gil([&] { return evict_select(e); });
  nb::list out;
  for (const auto& head : kept) out.append(nb::cast(to_numpy(head)));
  return out;
}

}  // namespace

void bind_evict(nb::module_& m) {
  m.def("evict_select", &select, nb::arg("k"), nb::arg("v"), nb::arg("q"), nb::arg("budget"), nb::arg("policy"),
        nb::arg("mix"), nb::arg("window"), nb::arg("kernel"), nb::arg("il"), nb::arg("n_layer"), nb::arg("head_weight"),
        nb::arg("head_scores"), nb::arg("floor"), nb::arg("beta"), nb::arg("rho"), nb::arg("sinks"), nb::arg("seed"));
}

}  // namespace foveal::python
