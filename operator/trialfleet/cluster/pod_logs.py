"""What the pods of a study write."""

import contextlib
import datetime
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Final, NamedTuple

from trialfleet import names
from trialfleet.cluster.namespace import PODS, STUDIES, Namespace, Object
from trialfleet.model import errors, trial_marks

_COMPONENTS: Final = (names.COMPONENT_WORKER, names.COMPONENT_PREPARE, names.COMPONENT_COLLATE)

_CLOCKS_DIFFER: Final = datetime.timedelta(minutes=1)
"""At most, between the database and a node."""

_LOOK_S: Final = 2.0
"""Between two looks for new pods."""


class Line(NamedTuple):
    """One line of a pod."""

    pod: str
    text: str


def read(namespace: Namespace, study: str, last: int | None) -> Generator[Line, None, None]:
    """Yield what the study's pods have written, pod by pod in the order in which they were made.

    ``last``: so many last lines of each pod at most.
    """
    for pod in _pods(namespace, study):
        name = pod["metadata"]["name"]
        for line in _written(namespace, name, _container(pod), last):
            yield Line(name, line)


def _written(namespace: Namespace, pod: str, container: str, last: int | None) -> list[str]:
    """Return what a container wrote, or its last lines, without the marks of trials."""
    asked = None if last is None else 2 * last + 1
    while True:
        lines = namespace.log(pod, container, last=asked).splitlines()
        written = [line for line in lines if not trial_marks.is_mark(line)]
        if last is None or asked is None:
            return written
        if len(written) >= last or len(lines) < asked:
            return written[max(0, len(written) - last) :]
        asked *= 8


@contextlib.contextmanager
def open_trial(
    namespace: Namespace, study: str, number: int, started: datetime.datetime
) -> Iterator[Iterator[Line] | None]:
    """Give what the pod that ran a trial has written meanwhile; None if no pod that is left did."""
    for pod in _pods(namespace, study):
        name = pod["metadata"]["name"]
        lines = namespace.log_since(name, _container(pod), started - _CLOCKS_DIFFER)
        with contextlib.closing(lines):
            if trial_marks.begin(lines, number):
                yield (Line(name, line) for line in trial_marks.rest(lines))
                return
    yield None


def follow(namespace: Namespace, study: str, last: int | None) -> Generator[Line, None, None]:
    """Yield what the study's pods have written and write, as it comes, until the study has ended.

    Pods that are made meanwhile are followed too.
    """
    lines: queue.Queue[Line | errors.TrialfleetError] = queue.Queue()
    readers: dict[str, threading.Thread] = {}
    while True:
        over = _is_over(namespace.find(STUDIES, study))
        for pod in _pods(namespace, study):
            uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
            if uid not in readers and _has_begun(pod):
                # Of a pod that was not there at first, nothing is left out.
                tail = last if not readers or last is None else None
                reading = _reader(namespace, name, _container(pod), tail, lines.put)
                readers[uid] = threading.Thread(target=reading, name=name, daemon=True)
                readers[uid].start()
        looked_at = time.monotonic()
        if over:
            for reader in readers.values():
                reader.join(_LOOK_S)
        while not lines.empty() or (not over and time.monotonic() < looked_at + _LOOK_S):
            try:
                line = lines.get(timeout=_LOOK_S / 4)
            except queue.Empty:
                continue
            if isinstance(line, errors.TrialfleetError):
                raise line
            if not trial_marks.is_mark(line.text):
                yield line
        if over:
            return


def _reader(
    namespace: Namespace,
    pod: str,
    container: str,
    last: int | None,
    put: "Callable[[Line | errors.TrialfleetError], None]",
) -> Callable[[], None]:
    def read() -> None:
        try:
            for line in namespace.follow_log(pod, container, last=last):
                put(Line(pod, line))
        except errors.TrialfleetError as error:
            put(error)

    return read


def _pods(namespace: Namespace, study: str) -> list[Object]:
    found = [
        pod
        for pod in namespace.list(PODS, labels=f"{names.LABEL_STUDY}={study}")
        if pod["metadata"]["labels"].get(names.LABEL_COMPONENT) in _COMPONENTS
    ]
    return sorted(found, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))


def _container(pod: Mapping[str, Any]) -> str:
    """Return the container that counts: the worker, or the first one."""
    containers = [str(one["name"]) for one in pod["spec"]["containers"]]
    return names.WORKER_CONTAINER if names.WORKER_CONTAINER in containers else containers[0]


def _has_begun(pod: Mapping[str, Any]) -> bool:
    name = _container(pod)
    return any(
        one["name"] == name and "waiting" not in one.get("state", {})
        for one in pod.get("status", {}).get("containerStatuses") or ()
    )


def _is_over(study: Mapping[str, Any] | None) -> bool:
    if study is None:
        return True
    return "completionTime" in study.get("status", {})
