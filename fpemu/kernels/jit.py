"""The decorator of every scalar kernel."""

from numba import njit

# No signature: CUDA kernels call these functions too.  Inlining is not left to LLVM's cost model: a loop vectorises
# only when the whole kernel is in its body, and the larger kernels are beyond the model's threshold.
kernel = njit(forceinline=True)
