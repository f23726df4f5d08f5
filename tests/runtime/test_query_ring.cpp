// The ring of window queries: order, layout, forgetting.
#include "engine/runtime/layer_kv.h"
#include "tests/check.h"

using namespace foveal;

TEST(reads_the_newest_in_order_by_head) {
  QueryRing ring(4, 2 * 3);  // 2 heads of 3
  for (int t = 0; t < 6; ++t) {
    float q[6];
    for (int i = 0; i < 6; ++i) q[i] = static_cast<float>(10 * t + i);
    ring.push(q, t);
  }
  CHECK_EQ(ring.size(), 4);
  std::vector<float> q;
  std::vector<int32_t> index;
  ring.read(3, 2, 3, q, index);
  CHECK_EQ(index, (std::vector<int32_t>{3, 4, 5}));
  // [head][window][D]
  CHECK_EQ(q, (std::vector<float>{30, 31, 32, 40, 41, 42, 50, 51, 52, 33, 34, 35, 43, 44, 45, 53, 54, 55}));
}

TEST(forgets_dropped_tokens) {
  QueryRing ring(4, 1);
  for (int t = 0; t < 6; ++t) {
    const float q = static_cast<float>(t);
    ring.push(&q, t);
  }
  ring.drop_from(4);
  CHECK_EQ(ring.size(), 2);
  const float q = 9;
  ring.push(&q, 4);
  std::vector<float> rows;
  std::vector<int32_t> index;
  ring.read(3, 1, 1, rows, index);
  CHECK_EQ(index, (std::vector<int32_t>{2, 3, 4}));
  CHECK_EQ(rows, (std::vector<float>{2, 3, 9}));
}
