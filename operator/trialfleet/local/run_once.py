"""``prepare`` and ``collate`` on one machine: programs that run once, before or after trials."""

import hashlib
import json
import platform
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trialfleet.api.pods import Container, RunOncePodTemplate
from trialfleet.local.processes import Child, Reaper, inherited_environment
from trialfleet.model import errors

RANK: Final = 0
"""Ended with the workers, before the proxy, where the run itself is killed."""

# As Kubernetes reads `command` and `args`; it leaves a name that it does not know as it is.
_REFERENCE: Final = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


@dataclass(frozen=True)
class Program:
    """What one container of the pod runs."""

    container: str
    arguments: Sequence[str]
    """The program and its arguments, in which ``$(NAME)`` stands for a variable."""
    environment: Mapping[str, str]
    """Variables that the manifest gives it."""


@dataclass(frozen=True)
class RunOnce:
    """The programs of ``prepare`` or ``collate``, in the order in which they run."""

    name: str
    programs: Sequence[Program]
    folder: Path
    """The folder of the manifest, in which they run."""

    @property
    def digest(self) -> str:
        """Tells whether what was done is what is to be done: a change in it is done again.

        The machine is part of it, as a program leaves its files on one.
        """
        programs = [
            [one.container, list(one.arguments), dict(one.environment)] for one in self.programs
        ]
        text = json.dumps([programs, str(self.folder), platform.node()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def read(name: str, template: RunOncePodTemplate | None, folder: Path) -> RunOnce | None:
    """Return what ``spec.prepare`` or ``spec.collate`` runs here.

    None where there is nothing, or where a container leaves its program to its image.

    Raises:
        InvalidInput: Several containers at once, or a program that is not in PATH.
    """
    if template is None or without_command(template):
        return None
    spec = template.spec
    if len(spec.containers) > 1:
        raise errors.InvalidInput(
            f"spec.{name}.spec.containers: found {len(spec.containers)}, accepted on one machine: "
            "one, with others before it in initContainers"
        )
    for index, container in enumerate(spec.init_containers or ()):
        if container.restart_policy == "Always":
            raise errors.InvalidInput(
                f"spec.{name}.spec.initContainers[{index}].restartPolicy: found 'Always', accepted "
                "on one machine: a container that ends before the next one begins"
            )
    programs = [_program(name, container) for container in _containers(template)]
    return RunOnce(name, programs, folder.absolute())


def without_command(template: RunOncePodTemplate) -> list[str]:
    """Return the names of the containers whose program only their image knows."""
    return [one.name for one in _containers(template) if not one.command]


def _containers(template: RunOncePodTemplate) -> Iterator[Container]:
    yield from template.spec.init_containers or ()
    yield from template.spec.containers


def _program(name: str, container: Container) -> Program:
    arguments = [*(container.command or ()), *(container.args or ())]
    variables = {one.name: one.value for one in container.env or () if one.value is not None}
    path = variables.get("PATH")
    # A path may lead to what an earlier container makes.
    is_sought = "$" not in arguments[0] and "/" not in arguments[0]
    if is_sought and shutil.which(arguments[0], path=path) is None:
        raise errors.InvalidInput(
            f"spec.{name}: container {container.name!r}: found no program {arguments[0]!r} in PATH"
        )
    return Program(container.name, arguments, variables)


class Running:
    """Runs the programs of a ``RunOnce``, one after the other. One thread runs it."""

    def __init__(
        self,
        task: RunOnce,
        environment: Mapping[str, str],
        reaper: Reaper,
        on_line: Callable[[str], None],
    ) -> None:
        self._task = task
        self._environment = environment
        self._reaper = reaper
        self._on_line = on_line
        self._child: Child | None = None
        self._sent: signal.Signals | None = None
        self._last_line = ""

    @property
    def is_stopped(self) -> bool:
        """Whether a signal was sent."""
        return self._sent is not None

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the program that runs, and begin no other. Any thread may."""
        self._sent = signum
        child = self._child
        if child is not None:
            child.send(signum)

    def run(self) -> bool:
        """Run all to their end; return False if it was stopped by a signal from ``send``.

        Raises:
            TrialfleetError: A program failed; the message has its exit code and last line.
        """
        for program in self._task.programs:
            code = None if self.is_stopped else self._run(program)
            if code is None or self.is_stopped:
                return False
            if code != 0:
                end = f"exit code {code}" if code > 0 else f"{signal.Signals(-code).name}"
                last = f": {self._last_line}" if self._last_line else ", without any output"
                raise errors.TrialfleetError(
                    f"spec.{self._task.name}: container {program.container!r} ended with {end}"
                    f"{last}"
                )
        return True

    def _run(self, program: Program) -> int:
        variables = dict(self._environment)
        for name, value in program.environment.items():
            variables[name] = expand(value, variables)
        arguments = [expand(argument, variables) for argument in program.arguments]
        self._on_line(f"runs {shlex.join(arguments)}")
        self._last_line = ""
        self._child = Child(
            arguments,
            reaper=self._reaper,
            rank=RANK,
            environment={**inherited_environment(), **variables},
            on_line=self._hear,
            folder=self._task.folder,
        )
        if self._sent is not None:
            self._child.send(self._sent)
        code = self._child.wait()
        self._child = None
        return code

    def _hear(self, line: str) -> None:
        if line.strip():
            self._last_line = line.strip()
        self._on_line(line)


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Return a text with each ``$(NAME)`` replaced by a variable, as Kubernetes does it."""

    def replace(match: re.Match[str]) -> str:
        return "$" if match[1] is None else variables.get(match[1], match[0])

    return _REFERENCE.sub(replace, text)
