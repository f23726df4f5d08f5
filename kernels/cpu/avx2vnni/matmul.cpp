// The products of AVX2 machines with dot products of bytes (AVX-VNNI): the same bodies, other integer sums.
#define FOVEAL_256 avx2vnni
#include "kernels/cpu/avx2/matmul.h"
