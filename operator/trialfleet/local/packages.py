"""Packages that an objective asks for, on one machine: in a folder beside the data."""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trialfleet import names
from trialfleet.local.processes import Child, Reaper, inherited_environment
from trialfleet.worker import packages
from trialfleet.worker.packages import Wanted

FOLDER: Final = "packages"
"""In the folder of a run's data."""

CACHE: Final = Path(".trialfleet", FOLDER)
"""Of a script's or notebook's, in its current folder."""

RANK: Final = 0
"""pip is ended with the workers, where the run itself is killed."""


@dataclass(frozen=True)
class LocalPackages:
    """What is installed before the workers of a run start."""

    wanted: Wanted
    cache: Path

    @property
    def folder(self) -> Path:
        """The folder that has them, once they are installed."""
        return packages.folder_of(self.wanted, self.cache)

    @property
    def environment(self) -> dict[str, str]:
        """Return the variable by which workers find them."""
        return {names.ENV_PACKAGES: str(self.folder)}

    def install(self, reaper: Reaper, on_event: Callable[[str], None]) -> None:
        """Install them unless the cache has them; see ``packages.install``."""

        def run(
            arguments: Sequence[str], environment: Mapping[str, str]
        ) -> tuple[int, Sequence[str]]:
            lines: list[str] = []
            child = Child(
                arguments,
                reaper=reaper,
                rank=RANK,
                environment={**inherited_environment(), **environment},
                on_line=lines.append,
            )
            try:
                code = child.wait()
            except BaseException:
                child.send(signal.SIGKILL)
                raise
            return code, lines

        packages.install(
            self.wanted,
            self.cache,
            on_begin=lambda: on_event(f"installing {self.wanted}"),
            run=run,
        )
