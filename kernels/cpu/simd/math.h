// exp, tanh and the activations on vectors. Included by each instruction set's ops.cpp after its vec.h.
// Coefficients: minimax fits of this project (Lawson iteration in double), errors as stated at each function.
#pragma once

namespace foveal::FOVEAL_SIMD {
namespace {

// e^x for x <= 0: x = n ln 2 + r, |r| <= ln 2 / 2, e^r by a polynomial of degree 6 (3e-9) and 2^n by the exponent.
// Relative error below 2 units in the last place; NaN stays NaN. Below -64 it is 0: beside a largest weight of 1 such
// a weight (1.6e-28) is nothing, and what is summed of it would be subnormal, hundreds of cycles a number.
inline vf exp_down(vf x) {
  const vf shift = set(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const vf n = sub(fma(x, set(1.44269504f), shift), shift);
  const vf r = fnma(n, set(-2.12194440e-4f), fnma(n, set(0.693359375f), x));  // ln 2 in two parts, the first exact
  vf p = set(0.00139509875f);
  p = fma(p, r, set(0.00836917572f));
  p = fma(p, r, set(0.0416661985f));
  p = fma(p, r, set(0.166665167f));
  p = fma(p, r, set(0.5f));
  return select(less(x, set(-64.0f)), zero(), times_power_of_two(add(fma(p, mul(r, r), r), set(1.0f)), n));
}

// e^x for any x: infinity above 88.73.
inline vf exp(vf x) {
  return exp_down(min(set(89.0f), x));
}

// tanh x: x + x^3 P(x^2) below 0.625 (4.5e-9), 1 - 2 / (e^2|x| + 1) above. Relative error below 4 units.
inline vf tanh(vf x) {
  const vf size = abs(x), z = mul(x, x);
  vf p = set(-0.00567931309f);
  p = fma(p, z, set(0.0206181314f));
  p = fma(p, z, set(-0.0537340045f));
  p = fma(p, z, set(0.133313835f));
  p = fma(p, z, set(-0.333332807f));
  const vf near = fma(mul(p, z), x, x);
  const vf far = sub(set(1.0f), div(set(2.0f), add(exp(add(size, size)), set(1.0f))));
  return select(less(size, set(0.625f)), near, copy_sign(far, x));
}

// scale s, capped as c tanh(s / c) when c > 0.
inline vf cap(vf s, float scale, float softcap) {
  s = mul(s, set(scale));
  return softcap > 0 ? mul(set(softcap), tanh(div(s, set(softcap)))) : s;
}

// x / (1 + e^-y)
inline vf times_sigmoid(vf x, vf y) {
  return div(x, add(set(1.0f), exp(sub(zero(), y))));
}

// x Phi(x), Phi(-t) = e^(-t^2/2) R(1 / (1 + 0.3 t)) for t >= 0, R of degree 8 (6e-8 relative).
inline vf gelu_erf(vf x) {
  const vf t = abs(x), u = div(set(1.0f), fma(set(0.3f), t, set(1.0f)));
  vf p = set(0.0384074524f);
  p = fma(p, u, set(-0.169307753f));
  p = fma(p, u, set(0.228952333f));
  p = fma(p, u, set(-0.0768402666f));
  p = fma(p, u, set(0.142765671f));
  p = fma(p, u, set(0.0945857093f));
  p = fma(p, u, set(0.121945299f));
  p = fma(p, u, set(0.119484201f));
  p = fma(p, u, set(7.3726419e-06f));
  const vf tail = mul(mul(t, p), exp_down(mul(mul(t, t), set(-0.5f))));  // t Phi(-t)
  return sub(max(zero(), x), tail);
}

// Errors of the four: below 1e-6 of the result or 2e-7 max(1, |x|), whichever is less (plus 1e-9).
template <CpuAct kind>
inline vf activate(vf x) {
  if constexpr (kind == CpuAct::silu) return times_sigmoid(x, x);
  if constexpr (kind == CpuAct::gelu_quick) return times_sigmoid(x, mul(x, set(1.702f)));
  if constexpr (kind == CpuAct::gelu_erf) return gelu_erf(x);
  // gelu_tanh: 0.5 x (1 + tanh u) = x / (1 + e^-2u), u = sqrt(2/pi) (x + 0.044715 x^3)
  const vf cube = mul(mul(x, x), mul(x, set(0.0713548162726f)));
  return times_sigmoid(x, fma(x, set(1.5957691216f), cube));
}

}  // namespace
}  // namespace foveal::FOVEAL_SIMD
