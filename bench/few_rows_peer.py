"""Products x[m, k] · w[n, k]ᵀ by other libraries: reads lines `m n k`, prints the seconds of one product by library as JSON."""
import ctypes
import json
import os
import sys
import time


def openblas():
    import numpy as np

    def make(m, n, k):
        x, w, y = np.full((m, k), 0.01, "f"), np.full((n, k), 0.01, "f").T, np.empty((m, n), "f")
        return lambda: np.matmul(x, w, out=y)
    return {"OpenBLAS": make}


def blis():
    import numpy as np
    call = ctypes.CDLL(os.environ["BATON_BLIS"]).cblas_sgemm
    pointer, real = ctypes.c_void_p, ctypes.c_float

    def make(m, n, k):
        x, w, y = np.full((m, k), 0.01, "f"), np.full((n, k), 0.01, "f"), np.empty((m, n), "f")
        sizes = [ctypes.c_int(v) for v in (m, n, k)]
        args = [101, 111, 112, *sizes, real(1), pointer(x.ctypes.data), ctypes.c_int(k), pointer(w.ctypes.data), ctypes.c_int(k),
                real(0), pointer(y.ctypes.data), ctypes.c_int(n)]
        return lambda keep=(x, w, y): call(*args)
    return {"BLIS": make}


def torch_libraries():
    import torch
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)

    def mkl(m, n, k):
        x, w, y = torch.full((m, k), 0.01), torch.full((n, k), 0.01).t(), torch.empty(m, n)
        return lambda: torch.mm(x, w, out=y)

    def onednn(m, n, k):  # the weight in the layout that the library chooses for it
        x, w = torch.full((m, k), 0.01), torch.full((n, k), 0.01)
        packed = torch.ops.mkldnn._reorder_linear_weight(w, m)
        return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    return {"MKL": mkl, "oneDNN": onednn}


def seconds(run):
    """The shortest of some runs of about half a millisecond."""
    best, calls = float("inf"), 1
    for _ in range(12):
        start = time.perf_counter()
        for _ in range(calls):
            run()
        each = (time.perf_counter() - start) / calls
        best, calls = min(best, each), max(1, min(200, int(5e-4 / each)))
    return best


makers = {}
for library in (openblas, blis, torch_libraries):
    try:
        makers.update(library())
    except (ImportError, OSError, KeyError, AttributeError) as error:
        print(f"{library.__name__}: {error}", file=sys.stderr)
for line in sys.stdin:
    m, n, k = map(int, line.split())
    print(json.dumps({name: seconds(make(m, n, k)) for name, make in makers.items()}), flush=True)
