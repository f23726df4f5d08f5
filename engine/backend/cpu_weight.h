// Weight matrices on the CPU. (Plain reference path; the packed layouts replace it.)
#pragma once

#include "engine/backend/backend.h"
#include "engine/core/thread_pool.h"
#include "kernels/cpu/dispatch.h"

namespace foveal {

class CpuWeight : public Weight {
 public:
  Buffer<float> values;            // [rows][cols]
  const TensorInfo* table = nullptr;
  TensorInfo table_info;
};
struct MatmulScratch {};

WeightPtr pack_weight(std::span<const TensorInfo* const> parts, Isa isa, ThreadPool& pool);
WeightPtr table_weight(const TensorInfo& t);
Buffer<float> dequantize_tensor(const TensorInfo& t);
void cpu_matmul(ThreadPool& pool, Mat out, const CpuWeight& w, ConstMat x, const float* bias, MatmulScratch& scratch);
void cpu_embed_rows(ThreadPool& pool, Mat out, const CpuWeight& w, std::span<const int32_t> ids);

}  // namespace foveal
