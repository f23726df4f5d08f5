// From how many rows on a prompt is read faster with a layer's weights streamed through the GPU than on the CPU.
#pragma once

#include "engine/models/text_model.h"

namespace foveal {

struct StreamTimes {
  double layer_ms = 0;  // copying a layer's weights to the GPU
  double row_ms = 0;    // one row through that layer on the CPU, without attention
};

// Measured on layer 0, which both have: a few milliseconds to a few tenths of a second.
StreamTimes measure_streaming(const TextModel& cpu_text, Backend& cpu, WeightStream& stream, Backend& gpu);

// Where both take the same time, up to the next power of two, so that machine and model nearly always come to the same
// number: 16 to 2^20.
int64_t rows_to_stream(const StreamTimes& times);

}  // namespace foveal
