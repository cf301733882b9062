"""Tensors of PyTorch's .pt, read by PyTorch itself, weights only: nothing of the file's own can run.

Whatever else lies beside the weights (configurations, arguments, schedulers) becomes a record that holds what it was made of and does
nothing, so one such object costs itself and not the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpemu.formats import FloatFormat
from fpemu.tensors import own_format, tensor_array

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of before PyTorch 1.6 begin: a pickled number
MOST_TRIES = 200  # of loading, each with one more kind of object replaced
# Numbers in the clothes of NumPy: no more worth a line than the int and float beside them.
QUIET = {"numpy.dtype", "numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar"}
_UNKNOWN = re.compile(r"GLOBAL (\S+) was not an allowed global")
_CONTAINER = re.compile(r"Can only (append|extend|SETITEMS?) .*got <class 'fpemu-record\.(\S+)'>")


class Entry(NamedTuple):
    """A tensor of a .pt, floats or codes of a format; or, with neither, why it is not inspected."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    format: FloatFormat | None
    elements: NDArray[Any] | None
    why: str = ""


def torch_entries(path: str) -> Iterator[Entry]:
    """What a .pt holds, names joined by dots; tensors that are met twice are named as such.

    Raises ValueError where PyTorch is missing or refuses the file as a whole.
    """
    seen: dict[Any, str] = {}
    others: dict[str, list[str]] = {}
    for name, one in _named(_loaded(path)):
        if isinstance(one, Record):
            others.setdefault(one.path, []).append(name)
            continue
        entry = _entry(name, one, seen)
        if entry is not None:
            yield entry
    for kind, names in others.items():
        if kind not in QUIET:
            more = f", nor are {len(names) - 1} others" if len(names) > 1 else ""
            yield _skipped(
                names[0], f"an object of {kind}, which is not loaded{more}: only tensors in it are looked at"
            )


def _skipped(name: str, why: str) -> Entry:
    return Entry(name, "", (), None, None, why)


def _entry(name: str, tensor: Any, seen: dict[Any, str]) -> Entry:
    """A tensor as an array; what it cannot be costs the tensor alone."""
    try:
        array = tensor_array(tensor)
    except Exception as error:  # whatever a tensor of an unusual kind makes of it
        return _skipped(name, _one_line(error))
    place = tensor.data_ptr(), tensor.stride(), array.shape, array.dtype
    first = seen.setdefault(place, name) if array.size else name
    if first != name:
        return _skipped(name, f"the same memory as {first}, which is inspected")
    kind = str(tensor.dtype)
    format = own_format(array.dtype)
    if format is None and array.dtype.kind != "f":
        return Entry(name, kind, array.shape, None, None, f"elements of {kind}, which are no floats")
    elements = array if format is None else array.view(format.code_dtype)
    return Entry(name, kind.removeprefix("torch."), array.shape, format, elements)


# ---- loading --------------------------------------------------------------------------------------------------------
class Record:
    """What stands for an object that is not loaded: what it was made of."""

    path = ""  # of its class, or of the function that would have made it

    def __init__(self, *held: Any) -> None:
        self.held: Any = held
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _loaded(path: str) -> Any:
    """The objects of a file, with records for those that are not PyTorch's own."""
    try:
        import torch
    except ImportError:
        raise ValueError("a PyTorch checkpoint needs PyTorch to be read; or save it as .safetensors") from None
    with open(path, "rb") as stream:
        legacy = stream.read(len(LEGACY)) == LEGACY
    inert = _Inert(torch, [] if legacy else _unsafe(torch, path))
    for _ in range(MOST_TRIES):
        try:
            with inert.allowed():
                return torch.load(path, map_location="cpu", mmap=not legacy, weights_only=True)
        except Exception as error:  # whatever a damaged or unsafe file makes of it
            if not inert.learns_from(str(error)):
                raise ValueError(f"PyTorch does not load it with weights_only: {_one_line(error)}") from None
    raise ValueError(f"PyTorch does not load it with weights_only: more than {MOST_TRIES} kinds of objects")


def _unsafe(torch: Any, path: str) -> list[str]:
    """The names in a file of what PyTorch does not take for weights."""
    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a PyTorch without it, or a file that loading has more to say of
        return []


class _Inert:
    """Stand-ins, by name, for what a file would import: classes of ours, which run nothing."""

    def __init__(self, torch: Any, names: list[str]) -> None:
        self.torch = torch
        self.classes: dict[str, tuple[type, ...]] = {}
        for name in names:
            self.add(name, {"collections.defaultdict": dict}.get(name))

    def add(self, path: str, container: type | None = None) -> None:
        """Take what a path names for a record, or for a dict or list."""
        # (A subclass of tensors, for some are said to be of the class; made by itself it is no tensor.)
        names = {"__module__": "fpemu-record", "__qualname__": path}
        if container is not None:
            self.classes[path] = (type(path, (), {**names, "__new__": lambda cls, *held: container()}),)
            return
        record = type(path, (Record,), {**names, "path": path})
        base = self.torch.Tensor
        make = {"__new__": lambda cls, *held, **named: record(*held), "record": record}
        made = type(path, (base,), {**names, **make})
        self.classes[path] = made, record

    def allowed(self) -> Any:
        """A context in which PyTorch takes the stand-ins by their names."""
        pairs = [(made[0], name) for path, made in self.classes.items() for name in (path, f"builtins.{path}")]
        pairs += [(one, f"fpemu-record.{path}") for path, made in self.classes.items() for one in made[1:]]
        return self.torch.serialization.safe_globals(pairs)

    def learns_from(self, message: str) -> bool:
        """Whether a refusal names something that has not been replaced yet, or that must be a container."""
        unknown, container = _UNKNOWN.search(message), _CONTAINER.search(message)
        if unknown is not None and unknown[1] not in self.classes:
            self.add(unknown[1])
            return True
        if container is not None and len(self.classes.get(container[2], ())) == 2:
            self.add(container[2], dict if container[1].startswith("SETITEM") else list)
            return True
        return False


def _one_line(error: Exception) -> str:
    """All that an error says, but for what PyTorch says each time."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)) or type(error).__name__
    told = " ".join(text.partition("WeightsUnpickler error: ")[2].split() or text.split())
    return told.partition(" Check the documentation of torch.load")[0].partition(" Please use `torch.serialization")[0]


# ---- names ----------------------------------------------------------------------------------------------------------
def _named(held: Any) -> Iterator[tuple[str, Any]]:
    """Tensors and records in dicts, lists and records, by their path, in order; each container once."""
    waiting: list[tuple[str, Any]] = [("", held)]
    known: set[int] = set()
    while waiting:
        name, one = waiting.pop()
        if isinstance(one, type):  # a class or function itself, of which nothing was made
            if hasattr(one, "record"):
                yield name, one.record()
            continue
        if hasattr(one, "dtype") and hasattr(one, "detach"):
            yield name or "tensor", one
            continue
        if isinstance(one, Record):
            yield name or "object", one
        parts = _parts(one)
        if parts and id(one) not in known:
            known.add(id(one))
            waiting += [(f"{name}.{key}" if name else str(key), value) for key, value in reversed(parts)]


def _parts(one: Any) -> list[tuple[Any, Any]]:
    """What a container holds, with the names of its places."""
    if isinstance(one, Mapping):
        return list(one.items())
    if isinstance(one, (list, tuple)):
        return list(enumerate(one))
    if isinstance(one, Record):
        return [*enumerate(one.held), *(_parts(one.state))]
    return []


def flat_pieces(elements: NDArray[Any], most: int) -> Iterator[NDArray[Any]]:
    """Elements in C order, flat, in pieces of at most ``most`` bytes; what lies otherwise in memory is copied piece by piece."""
    from fpemu.targets.walk import boxes, flat

    if elements.size:
        for _, index in boxes(elements.shape, max(most // elements.itemsize, 1)):
            yield flat(np.asarray(elements[index]))
