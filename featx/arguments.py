"""Arguments of public functions: a wrong type, or an unknown name, is refused by name."""

from __future__ import annotations

import functools
import os
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np
from numpy.typing import ArrayLike

from featx.errors import OptionError, nearest

P = ParamSpec("P")
R = TypeVar("R")

_SEQUENCES = (Sequence, Collection, list, tuple)
_MOST = 1000  # entries of one list that are looked at: a source may have millions
_WORDS = {
    str: "text",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    NoneType: "None",
    os.PathLike: "a path",
    np.ndarray: "an array",
    Mapping: "a dictionary",
}


def typed(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function refuse arguments of another type than its signature names.

    Examples
    --------
    >>> @typed
    ... def crop(size: int, *, centre: bool = True) -> None: ...
    >>> crop("224")
    Traceback (most recent call last):
    featx.errors.OptionError: crop: size must be a whole number; got '224'
    """
    name = function.__name__

    @functools.wraps(function)
    def checking(*args: P.args, **kwargs: P.kwargs) -> R:
        hints = _hints_of(function)
        for given in kwargs:
            if given not in hints:
                known = nearest(given, hints)
                raise OptionError(f"{name} has no option {given!r}{known}")
        positional = dict(zip(hints, args, strict=False))
        require_types(name, hints, {**positional, **kwargs})
        return function(*args, **kwargs)

    return checking


def several(given: Any) -> list[Any]:
    """Make a list of an option that takes one or several.

    Examples
    --------
    >>> several("svm"), several(("svm", "logreg"))
    (['svm'], ['svm', 'logreg'])
    """
    return list(given) if _is_list(given) else [given]


def require_types(name: str, hints: Mapping[str, object], values: Mapping[str, object]) -> None:
    """Refuse a value that is not of the type of its hint.

    Parameters
    ----------
    name
        How the message names the function.

    Raises
    ------
    OptionError
        Naming the first such value, and what was expected in its place.
    """
    for option, value in values.items():
        if option in hints and not _fits(value, hints[option]):
            raise OptionError(
                f"{name}: {option} must be {_expected(hints[option])}; got {reprlib.repr(value)}"
                f"{_near(value, hints[option])}"
            )


@functools.cache
def _hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Types of the parameters in their order, without those that the return value alone needs."""
    code, named = function.__code__, function.__annotations__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return {n: eval(named[n], function.__globals__) if n in named else Any for n in names}


def _fits(value: Any, kind: Any) -> bool:
    origin = get_origin(kind) or kind
    if kind is Any or kind is ArrayLike:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if origin is Literal:
        return any(
            value is one or (isinstance(value, str) and value == one) for one in kind.__args__
        )
    if origin in _SEQUENCES:
        return _is_list(value) and all(_fits(v, _entry(kind)) for v in islice(value, _MOST))
    plain = {bool: (bool, np.bool_), int: (Integral,), float: (Real,), None: (NoneType,)}
    if origin in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, plain.get(origin, (origin,)))


def _is_list(value: object) -> bool:
    refused = (str, bytes, Mapping, Set)
    return isinstance(value, Collection) and not isinstance(value, refused)


def _entry(kind: object) -> Any:
    return get_args(kind)[0] if get_args(kind) else Any


def _expected(kind: Any) -> str:
    """Describe a type in words."""
    origin = get_origin(kind) or kind
    if origin in (Union, UnionType):
        kinds = [one for one in get_args(kind) if one is not NoneType]
        return " or ".join(map(_expected, kinds))
    if origin is Literal:
        known = ", ".join(map(str, kind.__args__))
        return known if len(kind.__args__) == 1 else f"one of {known}"
    if origin in _SEQUENCES:
        entries = {str: "texts", float: "numbers", int: "whole numbers"}
        return f"a list of {entries.get(_entry(kind), 'these')}"
    return _WORDS.get(origin, getattr(origin, "__name__", str(origin)))


def _near(value: object, kind: object) -> str:
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    known = [str(v) for one in kinds if get_origin(one) is Literal for v in get_args(one)]
    return nearest(value, known) if isinstance(value, str) else ""


def split_key(weights: str) -> tuple[str, str]:
    """Split ``FILE#KEY``; a file that itself has that name stays whole.

    Examples
    --------
    >>> split_key("dino.pth#teacher"), split_key("random")
    (('dino.pth', 'teacher'), ('random', ''))
    """
    if "#" not in weights or Path(weights).exists():
        return weights, ""
    file, _, key = weights.rpartition("#")
    return file, key


def absolute(weights: str) -> str:
    """Return the file's whole path, its key kept; what is not a file on this machine stays."""
    file, key = split_key(weights)
    if "://" in file or not Path(file).exists():
        return weights
    return f"{Path(file).resolve()}#{key}" if key else str(Path(file).resolve())
