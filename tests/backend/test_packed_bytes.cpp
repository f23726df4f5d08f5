// What a header alone says of a packed weight (header_backend.h) is what packing it takes, for every type and shape.
#include "engine/backend/cpu_weight.h"
#include "engine/backend/header_backend.h"
#include "tests/check.h"

using namespace foveal;

namespace {

struct Zeros {
  std::vector<uint8_t> bytes;
  TensorInfo info;

  Zeros(TensorType type, int64_t cols, int64_t rows) {
    const TypeTraits& t = traits_of(type);
    bytes.assign(static_cast<size_t>(rows * (cols / t.block_elements) * t.block_bytes), 0);
    info = {"w", type, {cols, rows}, bytes.data(), bytes.size()};
  }
};

}  // namespace

TEST(every_type_shape_and_instruction_set) {
  const IsaList isas = available_isas();
  int types = 0;
  for (int32_t id = 0; id < 64; ++id) {
    const TypeTraits* traits = type_traits(id);
    if (!traits) continue;
    ++types;
    for (int i = 0; i < isas.count; ++i) {
      ThreadPool pool(2);
      for (const int64_t blocks : {1, 3})
        for (const int64_t rows : {1, 15, 16, 17, 50}) {
          const int64_t least = traits->block_elements == 1 ? 32 : traits->block_elements;
          const Zeros w(static_cast<TensorType>(id), least * blocks, rows);
          const TensorInfo* part = &w.info;
          const WeightPtr packed = pack_weight({&part, 1});
          if (static_cast<int64_t>(packed->bytes) != packed_bytes(w.info))
            check::failed(__FILE__, __LINE__,
                          cat(traits->name, " ", w.info.shape(), " ", isa_name(isas.items[i]), ": ", packed->bytes,
                              " bytes packed, ", packed_bytes(w.info), " by the header"));
        }
    }
  }
  CHECK(types >= 25);
}

TEST(columns_that_are_no_multiple_of_32) {
  ThreadPool pool(1);
  for (const TensorType type : {TensorType::F32, TensorType::F16, TensorType::BF16})
    for (const int64_t cols : {1, 7, 33, 100}) {
      const Zeros w(type, cols, 21);
      const TensorInfo* part = &w.info;
      CHECK_EQ(static_cast<int64_t>(pack_weight({&part, 1})->bytes), packed_bytes(w.info));
    }
}

TEST(several_tensors_as_one_matrix) {
  ThreadPool pool(1);
  const Zeros a(TensorType::Q4_K, 512, 40), b(TensorType::Q6_K, 512, 17), c(TensorType::F16, 512, 3);
  const TensorInfo* parts[] = {&a.info, &b.info, &c.info};
  HeaderBackend header;
  const WeightPtr counted = header.load_matrix(parts), packed = pack_weight(parts);
  CHECK_EQ(counted->bytes, packed->bytes);
  CHECK_EQ(static_cast<size_t>(header.weight_bytes), packed->bytes);
}
