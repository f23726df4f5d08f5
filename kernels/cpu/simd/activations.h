// Activations as the products want them, rounded to 8 bits or side by side, in 256-bit registers: for the instruction
// sets that have AVX2. Scalar twin: kernels/cpu/scalar/matmul.cpp. Included inside the namespace of one instruction
// set.
namespace {

inline __m256 magnitude(__m256 v) {
  return _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)));
}

// The larger of magnitudes, compared as integers: not-a-number is above infinity and never lost.
inline __m256 larger(__m256 a, __m256 b) {
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}
inline __m128 larger(__m128 a, __m128 b) {
  return _mm_castsi128_ps(_mm_max_epi32(_mm_castps_si128(a), _mm_castps_si128(b)));
}

// Largest magnitude of 32 numbers in each of 8 lanes' classes.
inline __m256 most_of(const float* x) {
  const __m256 a = larger(magnitude(_mm256_loadu_ps(x)), magnitude(_mm256_loadu_ps(x + 8)));
  const __m256 b = larger(magnitude(_mm256_loadu_ps(x + 16)), magnitude(_mm256_loadu_ps(x + 24)));
  return larger(a, b);
}

// 32 numbers times `inverse`, rounded to int8, in their order.
inline __m256i round_to_int8(const float* x, __m256 inverse) {
  const auto four = [&](int i) { return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse)); };
  const __m256i words = _mm256_packs_epi16(_mm256_packs_epi32(four(0), four(1)), _mm256_packs_epi32(four(2), four(3)));
  return _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// Transposes 8 rows of 8 dwords.
inline void transpose(__m256i r[8]) {
  __m256i a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    a[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int h = 0; h < 2; ++h)
    for (int i = 0; i < 2; ++i) {
      b[4 * h + 2 * i] = _mm256_unpacklo_epi64(a[4 * h + i], a[4 * h + i + 2]);
      b[4 * h + 2 * i + 1] = _mm256_unpackhi_epi64(a[4 * h + i], a[4 * h + i + 2]);
    }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2x128_si256(b[i], b[4 + i], 0x20);
    r[i + 4] = _mm256_permute2x128_si256(b[i], b[4 + i], 0x31);
  }
}

// Lane t of the result: the largest lane of v[t].
inline __m256 largest_lanes(const __m256 v[8]) {
  __m256 two[4], four[2];
  for (int i = 0; i < 4; ++i)
    two[i] = larger(_mm256_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm256_unpackhi_ps(v[2 * i], v[2 * i + 1]));
  for (int i = 0; i < 2; ++i)
    four[i] = larger(_mm256_shuffle_ps(two[2 * i], two[2 * i + 1], 0x44),
                     _mm256_shuffle_ps(two[2 * i], two[2 * i + 1], 0xee));
  return larger(_mm256_permute2f128_ps(four[0], four[1], 0x20), _mm256_permute2f128_ps(four[0], four[1], 0x31));
}

// Four bytes' sum in each dword.
inline __m256i quad_sums(__m256i bytes) {
  return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes), _mm256_set1_epi16(1));
}

inline void put_sums8(const QuantTokens& to, int over16, int64_t at, __m256i sums) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to.sums[over16] + at), sums);
  _mm256_storeu_ps(to.fsums[over16] + at, _mm256_cvtepi32_ps(sums));
}

// Eight tokens, lane t of a register for token t.
inline void quantize8(const float* x, int64_t x_stride, int64_t cols, const QuantTokens& to) {
  for (int64_t b = 0; b < cols / 32; ++b) {
    __m256 most[8];
    for (int t = 0; t < 8; ++t) most[t] = most_of(x + t * x_stride + b * 32);
    const __m256 amax = largest_lanes(most), full = _mm256_set1_ps(127.0f);
    const __m256 positive = _mm256_cmp_ps(amax, _mm256_setzero_ps(), _CMP_GT_OQ);
    _mm256_storeu_ps(to.scales + b * 8, _mm256_div_ps(amax, full));
    alignas(32) float inverse[8];
    _mm256_store_ps(inverse, _mm256_and_ps(positive, _mm256_div_ps(full, amax)));
    __m256i q[8];
    for (int t = 0; t < 8; ++t) q[t] = round_to_int8(x + t * x_stride + b * 32, _mm256_set1_ps(inverse[t]));
    transpose(q);
    __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int j = 0; j < 8; ++j) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to.quads + (b * 8 + j) * 32), q[j]);
      sums[j / 4] = _mm256_add_epi32(sums[j / 4], quad_sums(q[j]));
    }
    put_sums8(to, 1, b * 16, sums[0]);
    put_sums8(to, 1, b * 16 + 8, sums[1]);
    put_sums8(to, 0, b * 8, _mm256_add_epi32(sums[0], sums[1]));
  }
}

inline void put_sum(const QuantTokens& to, int over16, int64_t at, int32_t sum) {
  to.sums[over16][at] = sum;
  to.fsums[over16][at] = static_cast<float>(sum);
}

inline float largest_lane(__m256 v) {
  __m128 m = larger(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = larger(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(larger(m, _mm_shuffle_ps(m, m, 1)));
}

inline int32_t sum4(__m128i v) {
  v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32(v, 0xb1)));
}

[[maybe_unused]] void quantize(const float* x, int64_t x_stride, int64_t cols, const QuantTokens& to) {
  if (to.used == 8) return quantize8(x, x_stride, cols, to);
  const int64_t n = to.count;
  for (int64_t t = 0; t < to.used; ++t)
    for (int64_t b = 0; b < cols / 32; ++b) {
      const float* in = x + t * x_stride + b * 32;
      const float amax = largest_lane(most_of(in));
      to.scales[b * n + t] = amax / 127.0f;
      const __m256i q = round_to_int8(in, _mm256_set1_ps(amax > 0 ? 127.0f / amax : 0.0f)), sums = quad_sums(q);
      alignas(32) int32_t quads[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(quads), q);
      auto* out = reinterpret_cast<int32_t*>(to.quads) + b * 8 * n + t;
      for (int j = 0; j < 8; ++j) out[j * n] = quads[j];
      const int32_t low = sum4(_mm256_castsi256_si128(sums)), high = sum4(_mm256_extracti128_si256(sums, 1));
      put_sum(to, 1, 2 * b * n + t, low);
      put_sum(to, 1, (2 * b + 1) * n + t, high);
      put_sum(to, 0, b * n + t, low + high);
    }
}

// Four rows of four floats, transposed, to rows `stride` apart.
inline void transpose4(const float* x, int64_t x_stride, float* to, int64_t stride) {
  __m128 r[4];
  for (int t = 0; t < 4; ++t) r[t] = _mm_loadu_ps(x + t * x_stride);
  _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]);
  for (int k = 0; k < 4; ++k) _mm_storeu_ps(to + k * stride, r[k]);
}

// used rows of x side by side, then zeros: [k][count].
[[maybe_unused]] void interleave(const float* x, int64_t x_stride, int count, int used, int64_t cols, float* to) {
  const int64_t whole = count % 4 == 0 && used == count ? cols / 4 * 4 : 0;
  for (int64_t k = 0; k < whole; k += 4)
    for (int t = 0; t < count; t += 4) transpose4(x + t * x_stride + k, x_stride, to + k * count + t, count);
  for (int64_t k = whole; k < cols; ++k)
    for (int t = 0; t < count; ++t) to[k * count + t] = t < used ? x[t * x_stride + k] : 0.0f;
}

}  // namespace
