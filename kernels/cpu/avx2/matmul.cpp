// The products of AVX2 machines without dot product instructions.
#define FOVEAL_256 avx2
#include "kernels/cpu/avx2/matmul.h"
