// The products of CPUs with matrix products of bytes (i8mm): the same bodies, other integer sums.
#define FOVEAL_NEON neoni8mm
#include "kernels/cpu/neon/matmul.h"
