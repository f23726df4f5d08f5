// Norms, sums, activations and rotary embedding of one row. Scalar twin: kernels/cpu/scalar/ops.cpp.
#pragma once

namespace foveal::FOVEAL_SIMD {
namespace {

// Calls whole(i) for every full vector of n elements and rest(i, left) for the last, shorter one.
template <class Whole, class Rest>
inline void over(int64_t n, Whole whole, Rest rest) {
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) whole(i);
  if (i < n) rest(i, n - i);
}

// Sum of value(vector) over the row in four interleaved vectors; elements past the end count as `value` of 0.
template <class Value>
inline float sum_of(const float* x, int64_t n, Value value) {
  vf a = zero(), b = zero(), c = zero(), d = zero();
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    a = value(a, load(x + i));
    b = value(b, load(x + i + lanes));
    c = value(c, load(x + i + 2 * lanes));
    d = value(d, load(x + i + 3 * lanes));
  }
  for (; i + lanes <= n; i += lanes) a = value(a, load(x + i));
  if (i < n) b = value(b, load_n(x + i, n - i));
  return sum(add(add(a, b), add(c, d)));
}

inline float square_root_of(double x) {
  return static_cast<float>(square_root(x));
}

void rms_norm(float* out, const float* x, const float* w, int64_t n, float eps) {
  const float squares = sum_of(x, n, [](vf acc, vf v) { return fma(v, v, acc); });
  const vf inverse =
      set(static_cast<float>(1.0 / square_root(static_cast<double>(squares) / static_cast<double>(n) + eps)));
  over(
      n, [&](int64_t i) { store(out + i, mul(mul(load(x + i), inverse), load(w + i))); },
      [&](int64_t i, int64_t left) {
        store_n(out + i, mul(mul(load_n(x + i, left), inverse), load_n(w + i, left)), left);
      });
}

void layer_norm(float* out, const float* x, const float* w, const float* b, int64_t n, float eps) {
  const double total = sum_of(x, n, [](vf acc, vf v) { return add(acc, v); });
  const vf mean = set(static_cast<float>(total / static_cast<double>(n)));
  // The zeros behind the end would add (0 - mean)^2 each: only whole vectors go through sum_of.
  const int64_t whole = n / lanes * lanes;
  double squares = sum_of(x, whole, [&](vf acc, vf v) { return fma(sub(v, mean), sub(v, mean), acc); });
  if (whole < n) {
    const vf rest = sub(load_n(x + whole, n - whole), mean);
    float room[lanes];
    store(room, mul(rest, rest));
    for (int64_t i = 0; i < n - whole; ++i) squares += room[i];
  }
  const vf inverse = set(static_cast<float>(1.0 / square_root(squares / static_cast<double>(n) + eps)));
  const auto value = [&](vf v, vf weight, vf bias) { return fma(mul(sub(v, mean), inverse), weight, bias); };
  over(
      n, [&](int64_t i) { store(out + i, value(load(x + i), load(w + i), b ? load(b + i) : zero())); },
      [&](int64_t i, int64_t left) {
        store_n(out + i, value(load_n(x + i, left), load_n(w + i, left), b ? load_n(b + i, left) : zero()), left);
      });
}

void add(float* x, const float* y, const float* scale, int64_t n) {
  over(
      n,
      [&](int64_t i) {
        store(x + i, scale ? fma(load(y + i), load(scale + i), load(x + i)) : add(load(x + i), load(y + i)));
      },
      [&](int64_t i, int64_t left) {
        const vf a = load_n(x + i, left), b = load_n(y + i, left);
        store_n(x + i, scale ? fma(b, load_n(scale + i, left), a) : add(a, b), left);
      });
}

void scale(float* x, float s, int64_t n) {
  over(
      n, [&](int64_t i) { store(x + i, mul(load(x + i), set(s))); },
      [&](int64_t i, int64_t left) { store_n(x + i, mul(load_n(x + i, left), set(s)), left); });
}

template <CpuAct kind>
void act_row(float* out, const float* gate, const float* up, int64_t n) {
  over(
      n,
      [&](int64_t i) {
        const vf y = activate<kind>(load(gate + i));
        store(out + i, up ? mul(y, load(up + i)) : y);
      },
      [&](int64_t i, int64_t left) {
        const vf y = activate<kind>(load_n(gate + i, left));
        store_n(out + i, up ? mul(y, load_n(up + i, left)) : y, left);
      });
}

void gated_act(float* out, const float* gate, const float* up, int64_t n, CpuAct kind) {
  switch (kind) {
    case CpuAct::silu:
      return act_row<CpuAct::silu>(out, gate, up, n);
    case CpuAct::gelu_tanh:
      return act_row<CpuAct::gelu_tanh>(out, gate, up, n);
    case CpuAct::gelu_erf:
      return act_row<CpuAct::gelu_erf>(out, gate, up, n);
    case CpuAct::gelu_quick:
      return act_row<CpuAct::gelu_quick>(out, gate, up, n);
  }
}

void act(float* x, int64_t n, CpuAct kind) {
  gated_act(x, x, nullptr, n, kind);
}

// (a, b) -> (a cos - b sin, a sin + b cos)
inline void rotate(vf& a, vf& b, vf c, vf s) {
  const vf a0 = a;
  a = fnma(b, s, mul(a0, c));
  b = fma(a0, s, mul(b, c));
}

inline void rope_half_split(float* x, const float* cs, int64_t half) {
  over(
      half,
      [&](int64_t i) {
        vf a = load(x + i), b = load(x + half + i);
        rotate(a, b, load(cs + i), load(cs + half + i));
        store(x + i, a);
        store(x + half + i, b);
      },
      [&](int64_t i, int64_t left) {
        vf a = load_n(x + i, left), b = load_n(x + half + i, left);
        rotate(a, b, load_n(cs + i, left), load_n(cs + half + i, left));
        store_n(x + i, a, left);
        store_n(x + half + i, b, left);
      });
}

inline void rope_adjacent(float* x, const float* cs, int64_t half) {
  const auto turn = [&](vf& low, vf& high, vf c, vf s) {
    vf a, b;
    deinterleave(low, high, a, b);
    rotate(a, b, c, s);
    interleave(a, b, low, high);
  };
  over(
      half,
      [&](int64_t i) {
        vf low = load(x + 2 * i), high = load(x + 2 * i + lanes);
        turn(low, high, load(cs + i), load(cs + half + i));
        store(x + 2 * i, low);
        store(x + 2 * i + lanes, high);
      },
      [&](int64_t i, int64_t left) {
        const int64_t n_low = 2 * left < lanes ? 2 * left : lanes, n_high = 2 * left - n_low;
        float* upper = x + 2 * i + n_low;  // not past the row when there's nothing to read
        vf low = load_n(x + 2 * i, n_low), high = load_n(upper, n_high);
        turn(low, high, load_n(cs + i, left), load_n(cs + half + i, left));
        store_n(x + 2 * i, low, n_low);
        store_n(upper, high, n_high);
      });
}

void rope(float* x, int64_t n_head, int64_t head_dim, const float* cs, int64_t n_rot, bool half_split) {
  for (int64_t h = 0; h < n_head; ++h, x += head_dim) {
    if (half_split) {
      rope_half_split(x, cs, n_rot / 2);
    } else {
      rope_adjacent(x, cs, n_rot / 2);
    }
  }
}

}  // namespace
}  // namespace foveal::FOVEAL_SIMD
