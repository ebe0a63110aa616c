"""Katib's metrics collectors, as ``objective.command.metrics``."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from trialfleet.api.suggestions import found
from trialfleet.transfer.katib.fields import Fields

_NAME: Final = r"[\w|-]"
"""A character of a metric's name, to Katib."""
_NUMBER: Final = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[Ee][+-]?\d+)?"
_GROUP: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?!\?)", re.DOTALL)
_DEFAULT_PATHS: Final = {
    "File": "/var/log/katib/metrics.log",
    "TensorFlowEvent": "/var/log/katib/tfevent/",
}
_UNREAD: Final = {
    "PrometheusMetric": "no endpoint is read",
    "Custom": "no container beside the program is run",
    "Push": "nothing is pushed to Katib's database",
    "None": "no metrics are collected",
}


@dataclass(frozen=True, slots=True)
class Collected:
    """Where a metric is found."""

    metric: dict[str, Any]
    """As in ``objective.command.metrics``."""
    folder: str | None = None
    """Of files that the program writes, which Katib mounts as an empty volume."""


def collected(spec: Fields, metric: str) -> Collected:
    """Return where the metric is found that a study optimizes.

    Raises:
        InvalidInput: A field can't be read.
    """
    collector = spec.object("metricsCollectorSpec")
    if collector is None:
        return Collected({"regex": _default(metric)})
    kind_of = collector.object("collector")
    kind = kind_of.text("kind", "StdOut") if kind_of is not None else "StdOut"
    source = collector.object("source")
    formats = list[Any]()
    path, form = _DEFAULT_PATHS.get(kind, ""), "TEXT"
    if source is not None:
        filter_ = source.object("filter")
        if filter_ is not None:
            formats = filter_.items("metricsFormat")
        if kind in _DEFAULT_PATHS:
            place = source.object("fileSystemPath")
            if place is not None:
                path, form = place.text("path", path), place.text("format", "TEXT")
                place.any("kind")  # each of these collectors takes one only
                place.close()
    if kind in _UNREAD:
        collector.tell(
            None,
            f"collector {kind}: {_UNREAD[kind]}; the program has to print a line of JSON such as "
            f'{{"{metric}": 0.5}}',
        )
        result = Collected({})
    elif kind not in ("StdOut", *_DEFAULT_PATHS):
        assert kind_of is not None
        accepted = "StdOut, File or TensorFlowEvent"
        raise kind_of.refusal("kind", f"found {found(kind)}, accepted: {accepted}")
    elif kind == "TensorFlowEvent":
        collector.tell(None, "the image needs the package tensorboard, which reads event files")
        result = Collected({"tensorboard": path}, path)
    elif form == "JSON":
        result = Collected({"file": path}, str(PurePosixPath(path).parent))
    else:
        regex = _filtered(source, formats, metric) if source is not None and formats else None
        result = Collected({"regex": regex or _default(metric)})
        if kind == "File":
            result = Collected({"file": path, **result.metric}, str(PurePosixPath(path).parent))
    if source is not None:
        if filter_ is not None:
            filter_.close()
        source.close()
    if kind_of is not None:
        kind_of.close()
    collector.close()
    return result


def _default(metric: str) -> str:
    return rf"(?<!{_NAME}){re.escape(metric)}\s*=\s*({_NUMBER})"


def _filtered(source: Fields, formats: list[Any], metric: str) -> str | None:
    usable = [regex for one in formats if (regex := _for_metric(str(one), metric)) is not None]
    if not usable:
        source.tell("filter", f"no format that matches {metric!r} can be converted: name=value")
        return None
    if len(usable) > 1:
        source.tell("filter", "one regular expression a metric: the first format is used")
    return usable[0]


def _for_metric(pattern: str, metric: str) -> str | None:
    """Return Katib's pattern of two groups, name and value, as one of the value alone."""
    groups = [match for match in _GROUP.finditer(pattern) if match[0] == "("]
    if len(groups) < 2:
        return None
    begin = groups[0].start()
    end = _end(pattern, begin)
    if end is None or groups[1].start() < end:
        return None
    try:
        if re.fullmatch(pattern[begin:end], metric) is None:
            return None
    except re.error:
        return None
    rest, at = "", end
    for index, group in enumerate(groups[1:]):
        rest += pattern[at : group.start()] + ("(" if index == 0 else "(?:")
        at = group.end()
    before = pattern[:begin] or f"(?<!{_NAME})"
    return before + re.escape(metric) + rest + pattern[at:]


def _end(pattern: str, begin: int) -> int | None:
    """Return where the group ends that begins there."""
    depth = 0
    for match in re.finditer(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[()]", pattern[begin:], re.DOTALL):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if depth == 0 and match[0] == ")":
            return begin + match.end()
    return None
