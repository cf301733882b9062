"""The floating-point environment: results are those of round-to-nearest with subnormals, whatever the calling thread was told.

A thread carries modes that change what its floating-point instructions do: the rounding direction (C's ``fesetround``), and the
flushing of subnormal results and operands (``torch.set_flush_denormal``; any library linked with ``-ffast-math``).  New threads inherit
them.  Three guards take the default modes, and put back what they found:

- a compiled loop looks at its thread's register itself, at the cost of one load (``guarded``);
- a public function that computes with NumPy's or Python's floats is decorated with ``in_default_environment``;
- threads of our own start with ``take_default``.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property, wraps
from types import CodeType, FunctionType
from typing import Any, NamedTuple, TypeVar

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Word = Any  # what ``take_default`` found, for ``put_back``; None where there was nothing to do


class Register(NamedTuple):
    """The control register of floating-point instructions.

    Attributes
    ----------
    modes: its bits that are modes; the others are flags, or reserved.
    default: those bits as a program starts: to nearest even, no flushing, no traps.
    place: of its 32 bits among the words of C's ``fenv_t``; None where that is not known.
    through_memory: whether LLVM's intrinsics move it to and from memory, or give and take it as 64 bits.
    read, write: those intrinsics.  (Not inline assembly: it needs a parser that LLVM may not have been given.)
    """

    modes: int
    default: int
    place: int | None
    through_memory: bool
    read: str
    write: str


def _register() -> Register | None:
    """This machine's: MXCSR (Intel SDM, volume 1, 10.2.3) or FPCR (Arm ARM, C5.2.8); None for another."""
    machine, system = platform.machine().lower(), sys.platform
    if machine in ("x86_64", "amd64"):  # glibc, musl: after the 28 bytes of the x87 unit; macOS: after its two words
        place = {"linux": 7, "darwin": 1}.get(system)
        return Register(0xFFC0, 0x1F80, place, True, "llvm.x86.sse.stmxcsr", "llvm.x86.sse.ldmxcsr")
    if machine in ("aarch64", "arm64"):  # macOS has the flags first
        place = {"linux": 0, "darwin": 2}.get(system)
        return Register(0x07FF9F07, 0, place, False, "llvm.aarch64.get.fpcr", "llvm.aarch64.set.fpcr")
    return None


REGISTER = _register()


# ---- this thread's modes, from Python -------------------------------------------------------------------------------
class _Scratch(threading.local):
    """A thread's own copy of its ``fenv_t`` (between two lines another thread may run), and the modes outside of its guards."""

    def __init__(self) -> None:
        self.outside: Word = None
        self.words = (ctypes.c_uint32 * 16)()
        self.address = ctypes.addressof(self.words)


_scratch = _Scratch()


def _library_guard(register: Register, place: int) -> tuple[Callable[[], Word], Callable[[Word], None]]:
    """Through C's ``fegetenv`` and ``fesetenv``: no compiler has to be loaded."""
    library = ctypes.PyDLL(None)  # keeping the interpreter's lock costs less than giving it away
    get, put = library.fegetenv, library.fesetenv
    get.argtypes = put.argtypes = (ctypes.c_void_p,)
    modes, default = register.modes, register.default

    def take_default() -> Word:
        scratch = _scratch
        get(scratch.address)
        word = scratch.words[place]
        if word & modes == default:
            return None
        found = bytes(scratch.words)
        scratch.words[place] = word & ~modes | default
        put(scratch.address)
        return found

    def put_back(found: Word) -> None:
        if found is not None:
            put(found)

    return take_default, put_back


def _compiled_guard() -> tuple[Callable[[], Word], Callable[[Word], None]]:
    """Where the layout of ``fenv_t`` is not known: the register itself, by two compiled functions."""

    @cache
    def functions() -> tuple[Callable[[], int], Callable[[int], None]]:
        from numba import njit

        read, write = _intrinsics()
        modes, default = _known().modes, _known().default

        def take() -> int:
            word = read()
            if word & modes != default:
                write(word & ~modes | default)
            return word  # type: ignore[no-any-return]

        return njit("uint32()")(take), njit("void(uint32)")(lambda word: write(word))

    return lambda: functions()[0](), lambda word: functions()[1](word)


def _guard() -> tuple[Callable[[], Word], Callable[[Word], None]]:
    if REGISTER is None:
        return lambda: None, lambda found: None
    return _compiled_guard() if REGISTER.place is None else _library_guard(REGISTER, REGISTER.place)


take_default, put_back = _guard()


@contextmanager
def _inside(found: Word) -> Iterator[None]:
    """Remembers what was found outside of a guard, and puts it back."""
    before, _scratch.outside = _scratch.outside, found
    try:
        yield
    finally:
        _scratch.outside = before
        put_back(found)


@contextmanager
def callers_environment() -> Iterator[None]:
    """Within a guard, the modes outside of it: for functions that are the caller's own, which see what he has set."""
    outside = _scratch.outside
    if outside is not None:
        put_back(outside)
    try:
        yield
    finally:
        take_default()  # (also where the function has set others itself)


def in_default_environment(target: Decorated) -> Decorated:
    """A function that runs in the default modes; of a class, all its methods and properties.

    (An iterator is to be whole when it is returned: what it computes later, it computes in the caller's modes.)
    """
    if isinstance(target, type):
        for name, member in list(vars(target).items()):
            replaced = _guarded_member(name, member)
            if replaced is not member:
                setattr(target, name, replaced)
        return target

    @wraps(target)
    def guarded(*arguments: Any, **more: Any) -> Any:
        found = take_default()
        if found is None:
            return target(*arguments, **more)
        with _inside(found):
            return target(*arguments, **more)

    return guarded  # type: ignore[return-value]


# Of a class: what Python calls by itself, often, and what computes nothing.
_LEFT = {"__eq__", "__hash__", "__setattr__", "__delattr__", "__getattr__", "__reduce__", "__init_subclass__"}


def _guarded_member(name: str, member: Any) -> Any:
    """A member of a class, guarded where it is one that computes."""
    if name in _LEFT:
        return member
    if isinstance(member, FunctionType):
        return in_default_environment(member)
    if isinstance(member, property):
        return property(in_default_environment(member.fget), member.fset, member.fdel) if member.fget else member
    if isinstance(member, cached_property):
        member.func = in_default_environment(member.func)
    if isinstance(member, (classmethod, staticmethod)):
        return type(member)(in_default_environment(member.__func__))
    return member


# ---- the modes of compiled loops ------------------------------------------------------------------------------------
def guarded(loop: Callable[..., Any], name: str, signature: Any) -> Callable[..., Any]:
    """A function to be compiled for a signature: the loop in the default modes; ``name`` is one that no other loop has.

    Where it finds the default modes it writes nothing.  The loop is not inlined: nothing of it may move out of the guard.
    """
    from numba import njit

    # Both names are the loop's own: symbols of cached code meet those of other processes, and the first of a name is taken.
    loop.__qualname__ = name
    if REGISTER is None:
        return loop
    options: dict[str, Any] = {"nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    names = {"call": _guarded_call(), "loop": njit(**options)(loop), "__name__": loop.__module__}
    outer = FunctionType(_calling(len(signature.args)), names)
    outer.__qualname__ = f"guarded_{name}"
    outer.loop = loop  # type: ignore[attr-defined]
    return outer


@cache
def _calling(count: int) -> CodeType:
    """The code of ``lambda a0, a1: call(loop, (a0, a1))``, for so many arguments; Numba takes no ``*arguments`` with a signature."""
    names = ", ".join(f"a{i}" for i in range(count))
    return eval(compile(f"lambda {names}: call(loop, ({names},))", __file__, "eval")).__code__  # type: ignore[no-any-return]


def _known() -> Register:
    assert REGISTER is not None
    return REGISTER


def _read_word(builder: Any) -> Any:
    """LLVM's value of the register, as 32 bits."""
    from llvmlite import ir
    from numba.core import cgutils

    register, word = _known(), ir.IntType(32)
    if not register.through_memory:
        return builder.trunc(_called(builder, register.read, ir.IntType(64)), word)
    place = cgutils.alloca_once(builder, word)
    _called(builder, register.read, ir.VoidType(), builder.bitcast(place, ir.IntType(8).as_pointer()))
    return builder.load(place)


def _write_word(builder: Any, value: Any) -> None:
    from llvmlite import ir
    from numba.core import cgutils

    register = _known()
    if not register.through_memory:
        _called(builder, register.write, ir.VoidType(), builder.zext(value, ir.IntType(64)))
        return
    place = cgutils.alloca_once(builder, value.type)
    builder.store(value, place)
    _called(builder, register.write, ir.VoidType(), builder.bitcast(place, ir.IntType(8).as_pointer()))


def _called(builder: Any, name: str, returns: Any, *arguments: Any) -> Any:
    """What an intrinsic of LLVM's gives."""
    from llvmlite import ir
    from numba.core import cgutils

    kind = ir.FunctionType(returns, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


@cache
def _guarded_call() -> Any:
    """``call(loop, arguments)`` in compiled code."""
    from numba.core import cgutils
    from numba.extending import intrinsic

    modes, default = _known().modes, _known().default

    @intrinsic
    def call(typing: Any, loop: Any, arguments: Any) -> Any:
        inner = loop.get_call_type(typing, tuple(arguments), {})

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            compiled = loop.dispatcher.overloads[inner.args]
            context.active_code_library.add_linking_library(compiled.library)
            function = context.declare_function(builder.module, compiled.fndesc)
            found = _read_word(builder)
            odd = builder.icmp_unsigned("!=", builder.and_(found, found.type(modes)), found.type(default))
            with builder.if_then(odd, likely=False):
                _write_word(
                    builder, builder.or_(builder.and_(found, found.type(~modes & 0xFFFFFFFF)), found.type(default))
                )
            status, result = context.call_conv.call_function(
                builder, function, inner.return_type, inner.args, cgutils.unpack_tuple(builder, values[1]), attrs=("noinline",)
            )  # fmt: skip
            with builder.if_then(odd, likely=False):
                _write_word(builder, found)
            with cgutils.if_unlikely(builder, status.is_error):
                context.call_conv.return_status_propagate(builder, status)
            return result

        return inner.return_type(loop, arguments), generate

    return call


@cache
def _intrinsics() -> tuple[Any, Any]:
    """``read()`` and ``write(word)`` in compiled code."""
    from numba import types
    from numba.extending import intrinsic

    @intrinsic
    def read(typing: Any) -> Any:
        return types.uint32(), lambda context, builder, signature, values: _read_word(builder)

    @intrinsic
    def write(typing: Any, word: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            _write_word(builder, values[0])
            return context.get_dummy_value()

        return types.void(types.uint32), generate

    return read, write
