// Baselines that look at nothing: StreamingLLM (arXiv 2309.17453: sinks and the newest rows) and a random choice.
#include <numeric>

#include "engine/kv/scores.h"

namespace foveal {

Scores score_streaming(int64_t m) {
  Scores out(static_cast<size_t>(m));
  std::iota(out.begin(), out.end(), 0.0);
  return out;
}

// PCG64 (O'Neill 2014, XSL-RR 128/64). The stream is made of seed, layer and head; the state starts from the newest
// token, so that each eviction of a long answer draws anew. The best C of M uniform numbers are a uniform choice.
Scores score_random(int64_t m, uint64_t seed, int il, int ih, int32_t last_token) {
  __extension__ using Wide = unsigned __int128;
  const Wide multiplier = (Wide{0x2360ed051fc65da4ull} << 64) | 0x4385df649fccf645ull;
  const uint64_t place = uint64_t{static_cast<uint32_t>(il)} << 32 | static_cast<uint32_t>(ih);
  const Wide increment = ((Wide{seed} << 64 | place) << 1) | 1;
  Wide state = (increment + static_cast<uint32_t>(last_token)) * multiplier + increment;
  Scores out(static_cast<size_t>(m));
  for (double& x : out) {
    state = state * multiplier + increment;
    const auto mixed = static_cast<uint64_t>(state >> 64) ^ static_cast<uint64_t>(state);
    const auto turn = static_cast<unsigned>(state >> 122);
    const uint64_t bits = mixed >> turn | mixed << (-turn & 63u);
    x = static_cast<double>(bits >> 11) * 0x1p-53;
  }
  return out;
}

}  // namespace foveal
