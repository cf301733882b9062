"""TABLE: who does which kind of work, as data; a row for each contender and kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from benchmarks import ours, peers, roofline
from benchmarks.results import OURS, PEER, ROOFLINE
from benchmarks.timing import Run
from benchmarks.works import Array, Work

Prepare = Callable[[Work, Array, int], Run]  # (work, input, threads): everything that is not timed


@dataclass(frozen=True)
class Contender:
    """One way to do one kind of work."""

    name: str
    kind: str  #: of works
    prepare: Prepare
    package: str = "fpemu"  #: that must be installed
    role: str = PEER
    threaded: bool = False  #: uses the threads of the run; else one
    allocates: bool = False  #: cannot write into memory that is already there
    handles: Callable[[Work], bool] = lambda work: True

    def takes(self, work: Work) -> bool:
        """Whether it does this work, here."""
        return self.kind == work.kind and find_spec(self.package) is not None and self.handles(work)


NAME, ONE_THREAD, RUN_TIME = "fpemu", "fpemu, one thread", "fpemu, run-time format"


def _alone(prepare: Prepare) -> Prepare:
    return lambda work, x, threads: prepare(work, x, 1)


def _roofline(name: str, kind: str, prepare: Prepare) -> Contender:
    return Contender(name, kind, prepare, role=ROOFLINE, threaded=True)


def _ours(kind: str, prepare: Prepare, name: str = NAME, threaded: bool = True, **more: Any) -> Contender:
    return Contender(name, kind, prepare, role=OURS, threaded=threaded, **more)


def _numpy(name: str, kind: str, prepare: Callable[[str, Work, Array, int], Run]) -> Contender:
    return Contender(name, kind, partial(prepare, name), name, handles=partial(peers.numpy_handles, name))


_TORCH: dict[str, Any] = {"package": "torch", "threaded": True, "handles": peers.torch_handles}
_GFLOAT: dict[str, Any] = {"package": "gfloat", "allocates": True, "handles": peers.gfloat_handles}
_APYTYPES: dict[str, Any] = {"package": "apytypes", "allocates": True, "handles": peers.apytypes_handles}

_TORCH_ALSO: dict[str, Any] = {"package": "torch", "threaded": True}

TABLE: tuple[Contender, ...] = (
    *(_roofline("copy", kind, roofline.copy) for kind in ("encode", "quantize", "decode", "blocks")),
    *(
        _roofline("copy past the cache", kind, roofline.copy_past)
        for kind in ("encode", "quantize", "decode", "blocks")
    ),
    *(_roofline("read", kind, roofline.read) for kind in ("stats", "histogram")),
    _roofline("copy", "arithmetic", roofline.operands),
    _roofline("numpy sgemm, which emulates nothing", "matmul", roofline.sgemm),
    _ours("encode", ours.encode),
    _ours("encode", _alone(ours.encode), ONE_THREAD, threaded=False, handles=ours.is_main_encode),
    _ours("encode", ours.encode_at_run_time, RUN_TIME, handles=ours.is_main_encode),
    Contender("torch", "encode", peers.torch_encode, **_TORCH),
    _numpy("ml_dtypes", "encode", peers.numpy_encode),
    _numpy("numpy", "encode", peers.numpy_encode),
    Contender("gfloat", "encode", peers.gfloat_encode, **_GFLOAT),
    Contender("apytypes", "encode", peers.apytypes_encode, **_APYTYPES),
    _ours("quantize", ours.quantize),
    Contender("torch", "quantize", peers.torch_quantize, **_TORCH),
    _numpy("ml_dtypes", "quantize", peers.numpy_quantize),
    _numpy("numpy", "quantize", peers.numpy_quantize),
    Contender("gfloat", "quantize", peers.gfloat_quantize, **_GFLOAT),
    Contender("apytypes", "quantize", peers.apytypes_quantize, **_APYTYPES),
    _ours("decode", ours.decode),
    Contender("torch", "decode", peers.torch_decode, **_TORCH),
    _numpy("ml_dtypes", "decode", peers.numpy_decode),
    _numpy("numpy", "decode", peers.numpy_decode),
    Contender("gfloat", "decode", peers.gfloat_decode, **_GFLOAT),
    Contender("apytypes", "decode", peers.apytypes_decode, **_APYTYPES),
    _ours("blocks", ours.blocks),
    _ours("stats", ours.stats, allocates=True),
    Contender("ml_dtypes", "stats", peers.numpy_stats, "ml_dtypes", allocates=True),
    _ours("histogram", ours.histogram, allocates=True),
    Contender("numpy", "histogram", peers.numpy_histogram, "numpy", allocates=True),
    _ours("arithmetic", ours.arithmetic),
    Contender("torch", "arithmetic", peers.torch_arithmetic, **_TORCH_ALSO),
    Contender("numpy", "arithmetic", peers.numpy_arithmetic, "numpy", handles=peers.numpy_operates),
    Contender(
        "apytypes",
        "arithmetic",
        peers.apytypes_arithmetic,
        "apytypes",
        allocates=True,
        handles=peers.apytypes_operates,
    ),
    _ours("matmul", ours.matmul),
    Contender(
        "torch, which emulates nothing", "matmul", peers.torch_matmul, handles=peers.torch_multiplies, **_TORCH_ALSO
    ),
    Contender(
        "apytypes", "matmul", peers.apytypes_matmul, "apytypes", allocates=True, handles=peers.apytypes_multiplies
    ),
    Contender(
        "mmasim",
        "matmul",
        peers.mmasim_matmul,
        "mmasim",
        threaded=True,
        allocates=True,
        handles=lambda work: work.engine_name in peers.MMASIM,
    ),
)
PACKAGES = tuple(dict.fromkeys(row.package for row in TABLE if row.role == PEER))


def of(work: Work) -> list[Contender]:
    """The contenders of a work that can run here: the rooflines first, then ours, then the peers."""
    return [row for row in TABLE if row.takes(work)]


def fpemu_at(work: Work) -> Contender:
    """fpemu as it comes: what the others are compared with."""
    return next(row for row in of(work) if row.name == NAME)
