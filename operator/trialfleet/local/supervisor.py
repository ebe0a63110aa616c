"""Runs a study on this machine: PostgreSQL, a proxy, and a crew of workers."""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from trialfleet import names
from trialfleet.local.crew import Crew, Workforce
from trialfleet.local.packages import LocalPackages
from trialfleet.local.postgres import Postgres, make_folder
from trialfleet.local.processes import Reaper
from trialfleet.local.proxy_process import ProxyProcess
from trialfleet.local.run_once import RunOnce
from trialfleet.local.stages import Stage, WriteResults
from trialfleet.model import errors

if TYPE_CHECKING:
    from trialfleet.client import FleetStorage, StudyDefinition

GUARD_S: Final = 1.0
"""Between two looks whether PostgreSQL is being looked after."""

START_S: Final = 20.0
"""For the storage to take the study."""

ORPHAN_GRACE_S: Final = 5.0
"""For workers to hand back their trials when the supervisor itself was killed."""


@dataclass(frozen=True)
class RunPlan:
    """What a local run consists of."""

    define: Callable[["FleetStorage"], "StudyDefinition"]
    """Says what the study is, when the storage is there."""
    folder: Path
    """Of all local data: PostgreSQL's, checkpoints, logs."""
    proxy: Callable[[str], Sequence[str]]
    """From an address to listen on to the proxy's command line."""
    workforce: Callable[[str], Workforce]
    """From the proxy's address to the workers."""
    packages: LocalPackages | None = None
    """Installed before anything that is the user's runs."""
    prepare: RunOnce | None = None
    collate: RunOnce | None = None
    write_results: WriteResults | None = None
    """Called before ``collate``, with the folder for the files."""
    storage: str | None = None
    """URL of a database; absent: PostgreSQL in ``folder``."""
    ephemeral: bool = False
    """Whether ``folder`` goes with the fleet, whatever ends it."""

    def results(self, study: str) -> Path:
        """Return the folder in which ``collate`` finds the trials of a study."""
        return self.folder.absolute() / "results" / study


class Fleet:
    """A study's processes: ``with Fleet(plan, ...) as fleet: fleet.crew.join()``.

    Entering returns when the study is there and workers are being started; leaving ends
    everything, whether or not there is more to do. ``on_output`` gets a worker's name and a
    line of its output, ``on_event`` what happened to a process, in one line for people; both
    are called from other threads.
    """

    client: "FleetStorage"
    crew: Crew
    study_id: int
    created: bool
    """Whether the study was not there before."""
    url: str
    """Of the database."""
    address: str
    """Of the proxy, a Unix socket."""

    def __init__(
        self,
        plan: RunPlan,
        *,
        on_output: Callable[[str, str], None],
        on_event: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._on_output = on_output
        self._on_event = on_event
        self._stack = contextlib.ExitStack()
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        """Start everything.

        Raises ``StorageUnavailable`` or ``SchemaMismatch`` if there is no usable database, and
        ``InvalidInput`` if a study of that name is there and is another one; and what
        ``LocalPackages.install`` raises.
        """
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        plan = self._plan
        # PostgreSQL, the proxy and this import take about a second each: they do it at once.
        importing = threading.Thread(target=_import_client, daemon=True)
        importing.start()
        make_folder(plan.folder)
        postgres = None
        if plan.storage is None:
            postgres = Postgres(plan.folder, ephemeral=plan.ephemeral)
            stack.callback(postgres.close)
            postgres.start()
        self.url = plan.storage or (postgres.url if postgres else "")
        reaper = stack.enter_context(
            Reaper(
                ORPHAN_GRACE_S,
                keep=[postgres.fileno()] if postgres else [],
                on_death=self._on_event,
            )
        )
        proxy = ProxyProcess(
            plan.proxy,
            reaper=reaper,
            environment={**os.environ, names.ENV_STORAGE_URL: self.url},
            log=plan.folder / "proxy.log",
            on_death=self._on_event,
        )
        stack.callback(proxy.stop)
        proxy.start()
        if plan.packages is not None:
            plan.packages.install(reaper, self._on_event)
        if postgres is not None:
            postgres.wait()
        self.address = proxy.wait()
        importing.join()
        definition = self._open_study(stack)
        self.crew = Crew(
            plan.workforce(self.address),
            self.client,
            definition,
            self.study_id,
            reaper,
            on_output=self._on_output,
            on_event=self._on_event,
            prepare=self._stage(plan.prepare, definition.name, reaper),
            collate=self._stage(plan.collate, definition.name, reaper),
        )
        stack.callback(self.crew.close)
        self.crew.start()
        if postgres is not None:
            guard = threading.Thread(target=self._guard, args=(postgres,), daemon=True)
            guard.start()
            stack.callback(guard.join)
            stack.callback(self._closing.set)

    def _stage(self, task: RunOnce | None, study: str, reaper: Reaper) -> Stage | None:
        if task is None:
            return None
        environment = {names.ENV_STUDY: study, names.ENV_PROXY: self.address}
        write_results = None
        if task is self._plan.collate and self._plan.write_results is not None:
            folder = self._plan.results(study)
            environment[names.ENV_RESULTS] = str(folder)
            write_results = functools.partial(
                self._plan.write_results, self.client, self.study_id, folder
            )
        return Stage(
            task,
            self.client,
            self.study_id,
            environment,
            reaper,
            on_event=self._on_event,
            write_results=write_results,
        )

    def _guard(self, postgres: Postgres) -> None:
        """Have PostgreSQL's keeper replaced if it is killed, and end the run if it gives up."""
        while not self._closing.wait(GUARD_S):
            try:
                postgres.start_again()
            except errors.TrialfleetError as error:
                self.crew.fail(error)
                return

    def _open_study(self, stack: contextlib.ExitStack) -> "StudyDefinition":
        from trialfleet.client import FleetStorage

        # Whatever token the environment names, it is for other proxies than a local run's.
        connect = functools.partial(FleetStorage, self.address, token_file="", ca_file="")
        # Later on, a storage may be away for minutes; one that was ready a moment ago may not.
        with contextlib.closing(connect(patience_s=START_S)) as client:
            definition = self._plan.define(client)
            self.study_id, self.created = client.ensure_study(definition)
        self.client = connect()
        stack.callback(self.client.close)
        return definition


def _import_client() -> None:
    import trialfleet.client  # noqa: F401
