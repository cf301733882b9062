"""TABLE: who does which kind of work, as data; a row for each contender and kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from benchmarks import ours, peers, roofline
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
    threaded: bool = False  #: uses the threads of the run; else one
    allocates: bool = False  #: cannot write into memory that is already there
    handles: Callable[[Work], bool] = lambda work: True

    @property
    def peer(self) -> bool:
        """Whether it is neither ours nor the roofline."""
        return self.package != "fpemu"

    def takes(self, work: Work) -> bool:
        """Whether it does this work, here."""
        return self.kind == work.kind and find_spec(self.package) is not None and self.handles(work)


OURS, ONE_THREAD, RUN_TIME = "fpemu", "fpemu, one thread", "fpemu, run-time format"
KINDS = ("encode", "quantize", "decode", "stats", "histogram")


def _alone(prepare: Prepare) -> Prepare:
    return lambda work, x, threads: prepare(work, x, 1)


def _numpy(name: str, kind: str, prepare: Callable[[str, Work, Array, int], Run]) -> Contender:
    return Contender(name, kind, partial(prepare, name), name, handles=partial(peers.numpy_handles, name))


_TORCH = {"package": "torch", "threaded": True, "handles": peers.torch_handles}
_GFLOAT = {"package": "gfloat", "allocates": True, "handles": peers.gfloat_handles}
_APYTYPES = {"package": "apytypes", "allocates": True, "handles": peers.apytypes_handles}

TABLE: tuple[Contender, ...] = (
    *(Contender(roofline.NAME, kind, roofline.copy, threaded=True) for kind in KINDS),
    Contender(OURS, "encode", ours.encode, threaded=True),
    Contender(ONE_THREAD, "encode", _alone(ours.encode), handles=ours.is_main_encode),
    Contender(RUN_TIME, "encode", ours.encode_at_run_time, threaded=True, handles=ours.is_main_encode),
    Contender("torch", "encode", peers.torch_encode, **_TORCH),
    _numpy("ml_dtypes", "encode", peers.numpy_encode),
    _numpy("numpy", "encode", peers.numpy_encode),
    Contender("gfloat", "encode", peers.gfloat_encode, **_GFLOAT),
    Contender("apytypes", "encode", peers.apytypes_encode, **_APYTYPES),
    Contender(OURS, "quantize", ours.quantize, threaded=True),
    Contender("torch", "quantize", peers.torch_quantize, **_TORCH),
    _numpy("ml_dtypes", "quantize", peers.numpy_quantize),
    _numpy("numpy", "quantize", peers.numpy_quantize),
    Contender("gfloat", "quantize", peers.gfloat_quantize, **_GFLOAT),
    Contender("apytypes", "quantize", peers.apytypes_quantize, **_APYTYPES),
    Contender(OURS, "decode", ours.decode, threaded=True),
    Contender("torch", "decode", peers.torch_decode, **_TORCH),
    _numpy("ml_dtypes", "decode", peers.numpy_decode),
    _numpy("numpy", "decode", peers.numpy_decode),
    Contender("gfloat", "decode", peers.gfloat_decode, **_GFLOAT),
    Contender("apytypes", "decode", peers.apytypes_decode, **_APYTYPES),
    Contender(OURS, "stats", ours.stats, threaded=True, allocates=True),
    Contender("ml_dtypes", "stats", peers.numpy_stats, "ml_dtypes", allocates=True),
    Contender(OURS, "histogram", ours.histogram, threaded=True, allocates=True),
    Contender("numpy", "histogram", peers.numpy_histogram, "numpy", allocates=True),
)
PACKAGES = tuple(dict.fromkeys(row.package for row in TABLE if row.peer))


def of(work: Work) -> list[Contender]:
    """The contenders of a work that can run here: the roofline first, then ours, then the peers."""
    return [row for row in TABLE if row.takes(work)]
