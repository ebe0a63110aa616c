"""YAML as Kubernetes' tools read it, with the line and column of every mistake."""

import re
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

MAX_DEPTH: Final = 100
"""Of objects and lists in one another."""
MAX_VALUES: Final = 200_000
"""Of a document: many times what an object may have that is checked here."""
_MAX_DIGITS: Final = 400
_UNDER_WAY: Final = (0, 0)


class YamlError(Exception):
    """Text that is no YAML, or that Kubernetes' tools would read as something else."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        """From 1."""
        self.column = column
        """From 1."""
        self.message = message


@dataclass(frozen=True)
class Document:
    """One document of a file."""

    line: int
    """Line on which it begins, from 1."""
    content: Any
    node: yaml.Node

    def line_of(self, path: Iterable[str | int]) -> int:
        """Return the line, from 1, of a field, or of the nearest above it that is there."""
        node, line = self.node, self.line
        for part in path:
            step = _step(node, part)
            if step is None:
                break
            node, line = step
        return line


def _step(node: yaml.Node, part: str | int) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == part:
                return value, key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item: yaml.Node = node.value[part]
        return item, item.start_mark.line + 1
    return None


# kubectl reads YAML 1.1 by a Go library, which takes these for booleans; as a key, it makes the
# string "true" or "false" of them.
_TRUE: Final = frozenset(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"))
_FALSE: Final = frozenset(
    ("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF")
)
_BOOL_TAG: Final = "tag:yaml.org,2002:bool"
_INT_TAG: Final = "tag:yaml.org,2002:int"
_FLOAT_TAG: Final = "tag:yaml.org,2002:float"
_NULL_TAG: Final = "tag:yaml.org,2002:null"


class _Loader(yaml.SafeLoader):
    """Scalars as Go's YAML library resolves them: 1e-5 is a number, 2024-01-01 a string."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self._depth > MAX_DEPTH:
            message = f"found more than {MAX_DEPTH} levels, accepted: at most {MAX_DEPTH}"
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _error(mark, message)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


_Loader.add_implicit_resolver(
    _BOOL_TAG, re.compile(rf"^({'|'.join((*_TRUE, *_FALSE))})$"), list("yYnNtTfFoO")
)
_Loader.add_implicit_resolver(
    _INT_TAG,
    re.compile(r"^[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    _FLOAT_TAG,
    re.compile(
        r"^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver(_NULL_TAG, re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])


def _measure(node: yaml.Node, known: dict[yaml.Node, tuple[int, int]]) -> tuple[int, int]:
    """Return how many values and levels a node stands for, aliases replaced by what they name."""
    if node in known:
        if known[node] == _UNDER_WAY:
            raise _error(node.start_mark, "found an alias to what it is in, accepted: no cycle")
        return known[node]
    known[node] = _UNDER_WAY
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        parts = [value for _, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    values, levels = 1, 0
    for part in parts:
        inner, below = _measure(part, known)
        values += inner
        levels = max(levels, below)
    for found, limit, words in ((values, MAX_VALUES, "values"), (levels, MAX_DEPTH, "levels")):
        if found > limit:
            raise _error(
                node.start_mark,
                f"found more than {limit} {words}, with aliases replaced by what they name; "
                "accepted: at most so many",
            )
    known[node] = values, levels + 1
    return known[node]


def _construct_bool(loader: _Loader, node: yaml.ScalarNode) -> bool:
    return loader.construct_scalar(node) in _TRUE


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    written = str(loader.construct_scalar(node))
    text = written.replace("_", "")
    digits = text.lstrip("+-")
    if len(digits) > 1 and digits[0] == "0" and digits[1] in "01234567":
        text = text.replace("0", "0o", 1)
    if len(digits) > _MAX_DIGITS:
        raise _error(node.start_mark, f"found an integer of {len(digits)} digits, accepted: fewer")
    try:
        return int(text, 0)
    except ValueError:
        raise _error(node.start_mark, f"found {written!r}, accepted: an integer") from None


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen = set[str]()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        if key.tag == _BOOL_TAG:
            read_as = str(key.value in _TRUE).lower()
            raise _error(
                key.start_mark,
                f"found the key {key.value}, which Kubernetes' tools read as {read_as}; accepted: "
                f'in quotes: "{key.value}"',
            )
        if key.value in seen:
            raise _error(key.start_mark, f"found the key {key.value!r} twice, accepted: once")
        seen.add(key.value)
    loader.flatten_mapping(node)
    # Keys of JSON objects are strings, whatever they look like.
    return {
        key.value if isinstance(key, yaml.ScalarNode) else _no_key(key): loader.construct_object(
            value, deep=True
        )
        for key, value in node.value
    }


def _no_key(node: yaml.Node) -> str:
    raise _error(node.start_mark, "found a list or a mapping as a key, accepted: a string")


def _error(mark: yaml.Mark, message: str) -> YamlError:
    return YamlError(mark.line + 1, mark.column + 1, message)


_Loader.add_constructor(_BOOL_TAG, _construct_bool)
_Loader.add_constructor(_INT_TAG, _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def documents(text: str) -> Iterator[Document]:
    """Yield the documents that are not empty.

    Raises:
        YamlError: The text is no YAML. Documents before the mistake were yielded.
    """
    unprintable = _Loader.NON_PRINTABLE.search(text)
    if unprintable:
        raise YamlError(
            text.count("\n", 0, unprintable.start()) + 1,
            unprintable.start() - text.rfind("\n", 0, unprintable.start()),
            f"found the character {unprintable[0]!r}, accepted: printable characters",
        )
    loader = _Loader(text)
    line = 1
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                break
            line = node.start_mark.line + 1
            _measure(node, {})
            content = loader.construct_document(node)
            if content is not None:
                yield Document(node.start_mark.line + 1, content, node)
    except ValueError as error:  # a tag such as !!float before what is none
        raise YamlError(line, 1, str(error)) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join(part for part in (error.problem, error.context) if part)
        if mark is None:
            raise YamlError(1, 1, words) from None
        raise _error(mark, words) from None
    finally:
        loader.dispose()
