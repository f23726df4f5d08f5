"""What training on a CPU wants of the machine. prepare() comes first in a program, before torch has multiplied."""

import os
import subprocess
import sys

PROBE = "import torch; a = torch.ones(64, 64, dtype=torch.bfloat16); assert (a @ a)[0, 0] == 64"
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


def prepare():
    """Starts the program anew with an allocator that keeps its pages (glibc reads that at the start only; steps of
    small tensors are several times slower without). Some machines announce AMX and fault on it: a child tries, and
    where it dies oneDNN does without; where it lives, bfloat16 products take a tenth of the time."""
    if sys.platform == "linux" and not MALLOC.keys() & os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)
    if "ONEDNN_MAX_CPU_ISA" not in os.environ:
        died = subprocess.run([sys.executable, "-c", PROBE], capture_output=True).returncode
        os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_BF16" if died else "DEFAULT"
