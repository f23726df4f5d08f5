// The products of CPUs with dot products of bytes.
#define FOVEAL_NEON neon
#include "kernels/cpu/neon/matmul.h"
