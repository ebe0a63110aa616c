"""Objectives on their way to worker processes: with their source, or what prevents that."""

import contextlib
import functools
import io
import linecache
import pickle
import types
from collections import ChainMap
from collections.abc import Callable, Iterator
from typing import Any, Final

import cloudpickle

from trialfleet.model.errors import InvalidInput

_DEPTH: Final = 12
"""So many objects in one another are looked into for what can't be pickled."""


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles code with the file that it is from, whatever cloudpickle makes of it."""

    def __init__(self, file: Any) -> None:
        self.files: dict[str, None] = {}
        """Of the code that was pickled by value, in the order met."""
        # Before the pickler is made, which looks it up once.
        self.dispatch_table = ChainMap({types.CodeType: self._code}, super().dispatch_table)
        super().__init__(file)

    def _code(self, code: types.CodeType) -> tuple[Any, ...]:
        self.files[code.co_filename] = None
        build, arguments, *_ = super().dispatch_table[types.CodeType](code)
        return _code_of, (build, arguments, code.co_filename)


def _code_of(
    build: Callable[..., types.CodeType], arguments: tuple[Any, ...], file: str
) -> types.CodeType:
    return build(*arguments).replace(co_filename=file)


def dumps(value: object) -> tuple[bytes, dict[str, list[str]]]:
    """Return a value as bytes, and the source lines of the code in it by the name of their file.

    Raises whatever pickling raises.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    # As this process sees them: of a notebook or an interactive session there is no file.
    sources = {name: linecache.getlines(name) for name in pickler.files}
    return file.getvalue(), {name: lines for name, lines in sources.items() if lines}


def show_sources(sources: dict[str, list[str]]) -> None:
    """Have tracebacks of this process show these source lines."""
    for name, lines in sources.items():
        size = sum(map(len, lines))
        # Without a time of change the entry stays, whatever becomes of the file.
        linecache.cache[name] = (size, None, lines, name)


def unpicklable(error: Exception, **parts: object) -> InvalidInput:
    """Return the error of a value that can't be pickled: which of its parts holds what can't."""
    for name, part in parts.items():
        trail = _trail(part, _DEPTH, set())
        if trail is not None:
            held = f": it is {', in '.join(reversed(trail))}" if trail else ""
            return InvalidInput(f"the {name} can't be pickled: {error}{held}")
    return InvalidInput(f"the {', the '.join(parts)} can't be pickled: {error}")


def _trail(value: object, depth: int, seen: set[int]) -> list[str] | None:
    """Return the way to what can't be pickled in a value; empty: itself; None: it can be."""
    if id(value) in seen or _is_picklable(value):
        return None
    seen.add(id(value))
    if depth:
        for words, part in _parts(value):
            trail = _trail(part, depth - 1, seen)
            if trail is not None:
                return [words, *trail]
    return []


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    """Yield what a value holds, each with its place in words."""
    if isinstance(value, types.MethodType):
        yield f"the object of the method {value.__name__}", value.__self__
        yield f"the method {value.__name__}", value.__func__
    elif isinstance(value, types.FunctionType):
        yield from _variables(value)
    elif isinstance(value, functools.partial):
        parts = (value.func, *value.args, *value.keywords.values())
        yield from (("an argument of the partial", part) for part in parts)
    elif isinstance(value, dict):
        yield from ((f"the item {key!r:.60}", part) for key, part in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"the item {index}", part) for index, part in enumerate(value))
    else:
        owner = value.__name__ if isinstance(value, type) else type(value).__name__
        held = dict(vars(value)) if hasattr(value, "__dict__") else {}
        for slots in (getattr(kind, "__slots__", ()) for kind in type(value).__mro__):
            for name in (slots,) if isinstance(slots, str) else slots:
                with contextlib.suppress(AttributeError):
                    held[name] = getattr(value, name)
        yield from ((f"the attribute {name!r} of {owner}", part) for name, part in held.items())


def _variables(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    name = function.__qualname__.replace("<locals>.", "")
    for variable, cell in zip(
        function.__code__.co_freevars, function.__closure__ or (), strict=True
    ):
        with contextlib.suppress(ValueError):  # not bound yet
            yield f"the variable {variable!r} of {name}", cell.cell_contents
    for variable in _globals(function.__code__):
        if variable in function.__globals__:
            yield f"the variable {variable!r} of {name}", function.__globals__[variable]
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    yield from ((f"a default of {name}", default) for default in defaults)
    for attribute, part in vars(function).items():
        yield f"the attribute {attribute!r} of {name}", part


def _globals(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals(constant)


class _Nowhere(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


def _is_picklable(value: object) -> bool:
    try:
        _Pickler(_Nowhere()).dump(value)
    except (Exception, pickle.PicklingError):
        return False
    return True
