"""A function of a script or a notebook as source text that a worker on a cluster runs.

Where the function's own source has all that it needs, that is the text. Else the text unpickles the
function, which only the Python that pickled it can do.
"""

import ast
import base64
import contextlib
import inspect
import sys
import sysconfig
import textwrap
import types
from collections.abc import Callable, Iterator
from typing import Any, Final

import cloudpickle

from trialfleet.model.errors import InvalidInput
from trialfleet.worker.pickling import unpicklable

FUNCTION: Final = "objective"
"""What a pickled objective is called in its text."""

LONGEST: Final = 1_000_000
"""Characters of the text: a ConfigMap holds a mebibyte, with all that is beside it."""

_UNPICKLE: Final = """\
# {name}, pickled by Python {python}: it can't be told by its source alone.
import base64
import sys

if sys.version_info[:2] != {version}:
    raise ImportError(
        "the objective was pickled by Python {python}, and this is Python "
        f"{{sys.version_info[0]}}.{{sys.version_info[1]}}; accepted: an image with "
        "Python {python}, or an objective that needs nothing but its own source and imports"
    )

import cloudpickle

{function} = cloudpickle.loads(base64.b85decode({pickle!r}))
"""

_OURS: Final = "trialfleet"
"""The package that every worker has, also where it is not installed but beside the script."""

_CONSTANTS: Final = (bool, int, float, complex, str, bytes, type(None))


class _SourceIsNotEnough(Exception):
    """A function needs what no source of its own makes."""


def objective_text(objective: Callable[..., object]) -> tuple[str, str]:
    """Return source text that defines an objective, and the name of the function in it.

    Raises ``InvalidInput`` if it can't be pickled, or is too large for a ConfigMap.
    """
    try:
        source = _Source()
        source.add(objective)
        text, name = source.text(), objective.__name__
    except _SourceIsNotEnough:
        text, name = _pickled(objective), FUNCTION
    if len(text) > LONGEST:
        raise InvalidInput(
            f"objective: found {len(text)} characters with all that it refers to, accepted: at "
            f"most {LONGEST}, which a ConfigMap holds; have it load its data itself, from a volume "
            "or the worker's image"
        )
    return text, name


class _Source:
    """Collects functions with what they need: imports, constants, other functions."""

    def __init__(self) -> None:
        self._imports: dict[str, None] = {}
        self._constants: dict[str, str] = {}
        self._functions: dict[str, tuple[types.FunctionType, str]] = {}

    def text(self) -> str:
        """Return all of it as a module's source."""
        constants = [f"{name} = {value}" for name, value in self._constants.items()]
        # What a function needs comes before it: it may be called by a default of an argument.
        functions = [source for _, source in reversed(self._functions.values())]
        parts = ["\n".join(self._imports), "\n".join(constants), *functions]
        return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"

    def add(self, function: object) -> None:
        """Add a function; raise ``_SourceIsNotEnough`` if its source does not do."""
        if not isinstance(function, types.FunctionType) or function.__closure__:
            raise _SourceIsNotEnough
        name = function.__name__
        if name in self._functions:
            if self._functions[name][0] is not function:
                raise _SourceIsNotEnough
            return
        try:
            source = textwrap.dedent(inspect.getsource(function))
            (tree,) = ast.parse(source).body
        except (OSError, TypeError, SyntaxError, ValueError):
            raise _SourceIsNotEnough from None
        # A lambda's source is that of the whole statement; a decorator may have kept what it wraps.
        if not isinstance(tree, ast.FunctionDef) or tree.name != name or tree.decorator_list:
            raise _SourceIsNotEnough
        self._functions[name] = function, source
        for node in ast.walk(tree):
            if isinstance(node, ast.Global):
                raise _SourceIsNotEnough
            if isinstance(node, ast.Name) and node.id in function.__globals__:
                self._add_value(node.id, function.__globals__[node.id])
            if isinstance(node, ast.Attribute):
                self._add_submodule(node, function.__globals__)

    def _add_value(self, name: str, value: Any) -> None:
        if isinstance(value, types.ModuleType):
            if not _is_installed(value.__name__):
                raise _SourceIsNotEnough
            self._imports[f"import {value.__name__} as {name}"] = None
        elif type(value) in _CONSTANTS:
            written = repr(value)
            if written in ("nan", "inf", "-inf"):
                written = f"float({written!r})"
            if self._constants.setdefault(name, written) != written:
                raise _SourceIsNotEnough
        elif _is_importable(value):
            self._imports[f"from {value.__module__} import {value.__qualname__} as {name}"] = None
        elif getattr(value, "__name__", None) == name:
            self.add(value)
        else:
            raise _SourceIsNotEnough

    def _add_submodule(self, node: ast.Attribute, names: dict[str, Any]) -> None:
        """Import what ``package.module.name`` refers to: a package need not import its modules."""
        path: list[str] = []
        part: ast.expr = node
        while isinstance(part, ast.Attribute):
            path.insert(0, part.attr)
            part = part.value
        if isinstance(part, ast.Name) and isinstance(names.get(part.id), types.ModuleType):
            module = ".".join((names[part.id].__name__, *path))
            if module in sys.modules and _is_installed(module):
                self._imports[f"import {module}"] = None


def _pickled(objective: Callable[..., object]) -> str:
    with _local_modules_by_value():
        try:
            pickle = cloudpickle.dumps(objective)
        except Exception as error:
            raise unpicklable(error, objective=objective) from error
    version = sys.version_info[:2]
    return _UNPICKLE.format(
        name=getattr(objective, "__qualname__", type(objective).__name__),
        python=".".join(map(str, version)),
        version=version,
        function=FUNCTION,
        pickle=base64.b85encode(pickle).decode(),
    )


@contextlib.contextmanager
def _local_modules_by_value() -> Iterator[None]:
    """Have modules pickled by value that no worker's image has: those that are not installed."""
    local = [
        module
        for name, module in list(sys.modules.items())
        if name != "__main__" and getattr(module, "__file__", None) and not _is_installed(name)
    ]
    for module in local:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in local:
            cloudpickle.unregister_pickle_by_value(module)


def _is_importable(value: Any) -> bool:
    """Whether an image that has the same packages can import a function or class by its name."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not isinstance(module, str) or not name.isidentifier() or not _is_installed(module):
        return False
    return getattr(sys.modules.get(module), name, None) is value


def _is_installed(module: str) -> bool:
    """Whether a module is Python's own or that of an installed package."""
    package = module.partition(".")[0]
    if package == _OURS or (package in sys.stdlib_module_names and module != "__main__"):
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    paths = sysconfig.get_paths()
    return file is not None and any(
        file.startswith(paths[kind]) for kind in ("purelib", "platlib", "stdlib", "platstdlib")
    )
