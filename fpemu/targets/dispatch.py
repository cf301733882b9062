"""Where an array lies: on the host, or on a GPU.  Asking loads nothing that the array's owner has not loaded."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fpemu.targets.device import DeviceArray


def on_device(x: Any) -> DeviceArray | None:
    """An array on a CUDA GPU, whoever made it; None for anything else.

    Raises
    ------
    TypeError: a device array that cannot be taken (one that requires grad, an unknown dtype), or where numba-cuda is not
        installed; the message says why.
    """
    if not _lies_on_gpu(x):
        return None
    if find_spec("numba_cuda") is None:
        raise TypeError("arrays on a GPU need numba-cuda: pip install 'fpemu[cuda]', or copy them to the host")
    from fpemu.targets.device import DeviceArray

    return DeviceArray.of(x)


def _lies_on_gpu(x: Any) -> bool:
    if is_torch(x):
        return bool(x.is_cuda)
    # (The second attribute is Numba's own, which its simulator's arrays have too.)
    return hasattr(x, "__cuda_array_interface__") or hasattr(x, "__cuda_ndarray__")


def is_torch(x: Any) -> bool:
    """Whether x is a torch tensor."""
    return hasattr(x, "is_cuda") and any(base.__module__.partition(".")[0] == "torch" for base in type(x).__mro__)
