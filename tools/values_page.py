"""The page about the chart's values: from the comments that begin with ``# --``."""

import re
from typing import Final, NamedTuple

INTRODUCTION: Final = """\
# Values of the Helm chart

Generated from `charts/trialfleet/values.yaml` by `make values`; do not edit. Give yours by
`--set scope=Namespace` or in a file, `--values my.yaml`. A value that the chart does not know, or
of another type, is refused.

| value | default | what it does |
|---|---|---|
"""

_LINE: Final = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: (?P<value>\S.*))?")


class Value(NamedTuple):
    """A value that is described."""

    path: str
    default: str
    text: str


def read(source: str) -> list[Value]:
    """Return the described values of a values.yaml, in its order.

    Raises ``ValueError`` for one that is neither described nor made of such that are.
    """
    found: list[Value] = []
    path: list[str] = []
    comment: list[str] = []
    inside: Value | None = None
    for line in source.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            text = stripped.removeprefix("#").strip()
            comment = (
                [text.removeprefix("--").strip()] if text.startswith("--") else [*comment, text]
            )
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            if inside is not None and stripped.startswith("- "):
                items = [inside.default, stripped.removeprefix("- ")]
                inside = found[-1] = inside._replace(default=", ".join(filter(None, items)))
            comment = []
            continue
        depth = len(match["indent"]) // 2
        path[depth:] = [match["key"]]
        name = ".".join(path)
        if comment:
            inside = Value(name, match["value"] or "", " ".join(comment))
            found.append(inside)
        elif inside is not None and name.startswith(f"{inside.path}."):
            # A part of a default that takes several lines.
            part = f"{match['key']}: {match['value']}"
            default = f"{inside.default}, {part}" if inside.default else part
            inside = found[-1] = inside._replace(default=default)
        elif match["value"] is not None:
            raise ValueError(f"values.yaml: {name} has no comment that begins with '# --'")
        comment = []
    return found


def render(source: str) -> str:
    """Return the page."""
    rows = (
        f"| `{value.path}` | `{value.default}` | {value.text.replace('|', '&#124;')} |\n"
        for value in read(source)
    )
    return INTRODUCTION + "".join(rows)
