#!/usr/bin/env bash
# A small numpy product makes the scipy product that follows it take more than twice as long.
#
# Expected: two libraries that work one after the other do not disturb each other.
# Seen (numpy 2.3.5, scipy 1.17.1 from PyPI, Linux x86-64, two CPU cores):
#     sgemm of scipy alone 1.70 ms; each after a product of numpy 4.89 ms: 2.88 x
# The wheels bring two copies of OpenBLAS with a pool of threads each, and the threads of the one go
# on spinning for a while after their work: they take the cores from the other's. torch (OpenMP)
# beside numpy suffers the same: embedding took 1.6 x as long with one product of numpy a batch.
# With numpy held to one thread (threadpoolctl) the cost is gone. Fails where the second is no longer
# at least 1.3 x the first.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/v"
"$here/v/bin/pip" install --quiet numpy==2.3.5 scipy==1.17.1 threadpoolctl==3.6.0
"$here/v/bin/python" - <<'EOF'
import statistics
import sys
import time

import numpy as np
from scipy.linalg import blas
from threadpoolctl import ThreadpoolController, threadpool_info

square = np.asfortranarray(np.random.default_rng(0).random((600, 600), dtype=np.float32))
left, right = square[:64, :384].copy(), np.ones((384, 2000), dtype=np.float32)


def seconds() -> float:
    began = time.perf_counter()
    blas.sgemm(1.0, square, square)
    return time.perf_counter() - began


def after_numpy() -> float:
    left @ right
    return seconds()


def median(what) -> float:
    return 1000 * statistics.median(what() for _ in range(200))


print(f"numpy {np.__version__}; pools:",
      ", ".join(f"{p['internal_api']} of {p['num_threads']}" for p in threadpool_info()))
alone, mixed = median(seconds), median(after_numpy)
for library in ThreadpoolController().lib_controllers:
    if "numpy.libs" in library.filepath:
        library.set_num_threads(1)
held = median(after_numpy)
print(f"scipy alone {alone:.2f} ms, after numpy {mixed:.2f} ms ({mixed / alone:.2f} x), "
      f"after numpy held to one thread {held:.2f} ms ({held / alone:.2f} x)")
sys.exit(mixed < 1.3 * alone)
EOF
