// MixKV (arXiv 2510.20707): importance and diversity, weighed head by head by how redundant the head's keys are.
#include "engine/kv/scores.h"

namespace foveal {

Scores mix_scores(Mix mix, const Scores& attention, const Scores& vnorm, const Scores& diversity, double r) {
  Scores out(attention.size());
  for (size_t i = 0; i < out.size(); ++i) {
    const double a = attention[i], v = vnorm[i], d = diversity[i];
    switch (mix) {
      case Mix::none:
        out[i] = a;
        break;
      case Mix::vnorm:
        out[i] = a + v;
        break;
      case Mix::keydiff:
        out[i] = d;
        break;
      case Mix::fixed:
        out[i] = 0.33 * (a + v + d);
        break;
      case Mix::mixkv:
        out[i] = r * d + (1 - r) * (a + v);
        break;
      case Mix::sharp:  // score_sharp
        break;
    }
  }
  return out;
}

}  // namespace foveal
