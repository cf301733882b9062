"""The little of the CUDA driver that a recording needs, through cuda-bindings: memory, modules, launches, events.

Everything happens on the legacy default stream of the first device's primary context, which PyTorch, CuPy and
numba-cuda use too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class DriverError(Exception):
    """There is no usable GPU, or the driver refused a call; the message names the call and the error."""


_DEFAULT_STREAM = 0


class Context:
    """The primary context of the first device.  Raises DriverError where there is no driver or no device."""

    def __init__(self) -> None:
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise DriverError(f"cuda-bindings is not installed ({error}): pip install 'numba-cuda[cu13]'") from None
        self._driver = driver
        try:
            self.call("cuInit", 0)
        except RuntimeError as error:  # the library itself is not there
            raise DriverError(f"no CUDA driver: {error}") from None
        if self.call("cuDeviceGetCount") == 0:
            raise DriverError("the CUDA driver sees no GPU")
        self.device = self.call("cuDeviceGet", 0)
        self.call("cuCtxSetCurrent", self.call("cuDevicePrimaryCtxRetain", self.device))

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the driver by its name and return what it returns; DriverError names what failed."""
        try:
            error, *values = getattr(self._driver, name)(*arguments)
        except (AttributeError, TypeError) as refused:  # another version of cuda-bindings
            raise DriverError(f"{name}: {refused}") from refused
        if int(error):
            raise DriverError(f"{name}: {getattr(error, 'name', error)}")
        return values[0] if len(values) == 1 else tuple(values)

    # ---- facts ------------------------------------------------------------------------------------------------------
    @property
    def name(self) -> str:
        """The GPU as it calls itself."""
        return bytes(self.call("cuDeviceGetName", 256, self.device)).partition(b"\0")[0].decode().strip()

    @property
    def compute_capability(self) -> tuple[int, int]:
        """Major and minor, (9, 0) for Hopper."""
        attribute = self._driver.CUdevice_attribute
        major = self.call("cuDeviceGetAttribute", attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, self.device)
        minor = self.call("cuDeviceGetAttribute", attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, self.device)
        return int(major), int(minor)

    @property
    def cuda_version(self) -> str:
        """The newest CUDA version the driver serves, ``13.0``."""
        number = int(self.call("cuDriverGetVersion"))
        return f"{number // 1000}.{number % 1000 // 10}"

    # ---- memory -----------------------------------------------------------------------------------------------------
    def allocate(self, size: int) -> Any:
        """Device memory of ``size`` bytes."""
        return self.call("cuMemAlloc", size)

    def free(self, memory: Any) -> None:
        """Give device memory back."""
        self.call("cuMemFree", memory)

    def host_buffer(self, size: int) -> NDArray[np.uint8]:
        """Page-locked host memory of ``size`` bytes, kept until the process ends; ordinary memory if there is none."""
        try:
            address = int(self.call("cuMemAllocHost", size))
        except DriverError:
            return np.empty(size, np.uint8)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def copy_to_host(self, host: NDArray[Any], memory: Any) -> None:
        """Fill a host array from device memory, after all work before it."""
        self.call("cuMemcpyDtoH", host.ctypes.data, memory, host.nbytes)

    def copy_to_device(self, memory: Any, host: NDArray[Any]) -> None:
        """Fill device memory from a contiguous host array, after all work before it."""
        self.call("cuMemcpyHtoD", memory, host.ctypes.data, host.nbytes)

    def copy_on_device(self, target: Any, source: Any, size: int) -> None:
        """Copy ``size`` bytes from device memory to device memory."""
        self.call("cuMemcpyDtoDAsync", target, source, size, _DEFAULT_STREAM)

    def synchronize(self) -> None:
        """Wait for all work; errors of kernels come to light here."""
        self.call("cuCtxSynchronize")

    # ---- kernels ----------------------------------------------------------------------------------------------------
    def load(self, cubin: bytes, entry: str) -> Any:
        """A kernel from machine code."""
        module = self.call("cuModuleLoadData", cubin)
        return self.call("cuModuleGetFunction", module, entry.encode())

    def launch(self, kernel: Any, blocks: int, threads: int, *arguments: tuple[Any, Any]) -> None:
        """Launch a kernel in so many blocks of so many threads; arguments with their ``ctypes`` types."""
        values = tuple(int(value) for value, _ in arguments), tuple(kind for _, kind in arguments)
        self.call("cuLaunchKernel", kernel, blocks, 1, 1, threads, 1, 1, 0, _DEFAULT_STREAM, values, 0)

    # ---- time -------------------------------------------------------------------------------------------------------
    def times(self, work: Callable[[], Any], rounds: int, calls: int = 1, warm_up: int = 3) -> list[float]:
        """Seconds of a call of ``work()`` in each of ``rounds`` rounds of ``calls`` calls between two events.

        With several calls the host is ahead of the device, and its own time does not show.
        """
        start, end = self.call("cuEventCreate", 0), self.call("cuEventCreate", 0)
        seconds = []
        for number in range(warm_up + rounds):
            self.call("cuEventRecord", start, _DEFAULT_STREAM)
            for _ in range(calls):
                work()
            self.call("cuEventRecord", end, _DEFAULT_STREAM)
            self.call("cuEventSynchronize", end)
            if number >= warm_up:
                seconds.append(float(self.call("cuEventElapsedTime", start, end)) / 1000 / calls)
        self.call("cuEventDestroy", start)
        self.call("cuEventDestroy", end)
        return seconds
