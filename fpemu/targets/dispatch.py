"""Where an array lies: on the host, or on a GPU.  Asking loads nothing that the array's owner has not loaded."""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fpemu.formats import FORMATS, FloatFormat

if TYPE_CHECKING:
    from fpemu.targets.device import DeviceArray


def on_device(x: Any) -> DeviceArray | None:
    """An array on a CUDA GPU, whoever made it; None for anything else.

    Raises
    ------
    TypeError: a device array that cannot be taken (one that requires grad, an unknown dtype), or where numba-cuda is not
        installed; the message says why.
    RuntimeError: no NVIDIA driver, or none that finds a GPU.
    """
    if not _lies_on_gpu(x):
        return None
    if find_spec("numba_cuda") is None:
        raise TypeError("arrays on a GPU need numba-cuda: pip install 'fpemu[cuda]', or copy them to the host")
    _check_driver()
    from fpemu.targets.device import DeviceArray

    return DeviceArray.of(x)


@cache
def _check_driver() -> None:
    """RuntimeError where no driver can be loaded, or it finds no GPU."""
    from numba import config

    if config.ENABLE_CUDASIM:  # type: ignore[attr-defined]
        return
    from numba.cuda.cudadrv.driver import driver

    if not driver.is_available:
        why = " ".join(str(driver.initialization_error).split()).rstrip(": ") or "no reason given"
        raise RuntimeError(
            f"arrays on a GPU need NVIDIA's driver, which cannot be used here ({why}): copy them to the host"
        )


def _lies_on_gpu(x: Any) -> bool:
    if is_torch(x):
        return bool(x.is_cuda)
    try:
        # (The second attribute is Numba's own, which its simulator's arrays have too.)
        return hasattr(x, "__cuda_array_interface__") or hasattr(x, "__cuda_ndarray__")
    except Exception as error:  # whatever a property of a foreign class raises
        raise TypeError(f"{type(x).__name__} is no array on a GPU that can be taken: {error}") from None


def torch_format(tensor: Any) -> FloatFormat | None:
    """The format of a torch tensor's dtype where NumPy has no such dtype (bfloat16, FP8), else None."""
    name = str(tensor.dtype).removeprefix("torch.")
    return FORMATS.get(name) if name not in ("float16", "float32") else None


def is_torch(x: Any) -> bool:
    """Whether x is a torch tensor."""
    Tensor = getattr(sys.modules.get("torch"), "Tensor", None)  # (none while torch is being imported)
    return Tensor is not None and isinstance(x, Tensor)
