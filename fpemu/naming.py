"""Functions of two formats take them by name: which of two positions is the source would be anybody's guess."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def formats_by_name(line: str, positions: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: arguments beyond so many positions are a TypeError that shows the call as it should be written.

    Parameters
    ----------
    line: that call, e.g. ``fp.cast(codes, source="e4m3", target="e5m2")``.
    positions: how many positional arguments the function takes (``self`` included).
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            if len(args) > positions:
                given = ", ".join(_shown(one) for one in args[positions:])
                raise TypeError(f"{function.__name__} takes formats by name, not by position ({given}): write {line}")
            return function(*args, **kwargs)

        return checked

    return decorate


def _shown(argument: Any) -> str:
    """An argument as short text: a name where it has one."""
    name = argument if isinstance(argument, str) else getattr(argument, "name", None)
    return repr(name) if isinstance(name, str) else type(argument).__name__
