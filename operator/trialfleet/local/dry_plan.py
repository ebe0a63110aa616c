"""From a Study manifest to the processes that run it on this machine."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trialfleet import names
from trialfleet.local import gpus, run_once
from trialfleet.local.crew import Workforce
from trialfleet.local.packages import LocalPackages
from trialfleet.local.stages import WriteResults
from trialfleet.local.supervisor import RunPlan
from trialfleet.model import errors

if TYPE_CHECKING:
    from trialfleet.api.study import Study, StudySpec
    from trialfleet.client import StudyDefinition

TRIALFLEET: Final = (sys.executable, "-m", "trialfleet.cli.main")

WORKER_GRACE_S: Final = 10.0
"""For a running trial after Ctrl-C; asked a second time, a worker leaves at once."""

_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def define(
    study: "Study",
    trials: int | None = None,
    *,
    points: Sequence[Mapping[str, Any]] = (),
    definition: str = "",
    adopt: bool = False,
) -> "StudyDefinition":
    """Return what the storage is told of a study; ``trials`` replaces its budget of trials.

    ``points`` are those of ``spec.trialsFrom``.
    """
    # Not sooner: the fleet imports the client while other processes start.
    from trialfleet.api.search_space import distributions
    from trialfleet.client import Goal, StudyDefinition

    spec = study.spec
    return StudyDefinition(
        name=study.metadata.name,
        directions=[objective.study_direction for objective in spec.objectives],
        trials=trials if trials is not None else spec.budget.trials,
        failed_trials=spec.budget.failed_trials,
        timeout_s=spec.budget.timeout.total_seconds() if spec.budget.timeout else None,
        goals=[
            Goal(index, objective.goal)
            for index, objective in enumerate(spec.objectives)
            if objective.goal is not None
        ],
        patience=None if spec.budget.patience is None else spec.budget.patience.trials,
        warm_start=[one.study for one in spec.warm_start or ()],
        search_space=distributions(spec.search_space or {}) if spec.warm_start else {},
        retries=spec.retries,
        enqueue=spec.trials or points,
        metric_names=[objective.name for objective in spec.objectives],
        definition=definition,
        adopt=adopt or spec.adopt,
    )


def make_plan(
    study: "Study",
    manifest: Path,
    *,
    folder: Path,
    parallelism: int,
    trials: int | None = None,
    points: Sequence[Mapping[str, Any]] = (),
    storage: str | None = None,
    definition: str = "",
    adopt: bool = False,
    write_results: WriteResults | None = None,
    share_gpus: bool = False,
    packages: LocalPackages | None = None,
) -> RunPlan:
    """Return the plan of a local run; ``trials`` replaces the budget of trials.

    ``definition`` tells the study from others of its name; ``adopt`` takes over their trials;
    ``write_results`` writes the files that ``collate`` reads; with ``share_gpus`` several workers
    may have the same GPU; ``packages`` are installed first.

    Raises ``InvalidInput`` for what only a cluster can run.
    """
    if study.spec.objective.job is not None:
        raise errors.InvalidInput(
            "spec.objective.job: found a Kubernetes object, accepted on one machine: python or "
            "command"
        )

    own = _own_environments(study.spec, parallelism, share_gpus)

    def workforce(address: str) -> Workforce:
        environment = {
            **share_of_cores(parallelism, os.environ),
            **manifest_environment(study.spec),
            **(packages.environment if packages is not None else {}),
            names.ENV_PROXY: address,
            names.ENV_CHECKPOINT_ROOT: str((folder / "checkpoints").absolute()),
        }
        return Workforce(
            parallelism,
            worker_command(manifest),
            environment,
            own_environments=own,
            marks_trials=True,
        )

    return RunPlan(
        define=lambda client: define(
            study, trials, points=points, definition=definition, adopt=adopt
        ),
        prepare=run_once.read("prepare", study.spec.prepare, manifest.parent),
        collate=run_once.read("collate", study.spec.collate, manifest.parent),
        write_results=write_results,
        packages=packages,
        folder=folder,
        proxy=proxy_command,
        workforce=workforce,
        storage=storage,
    )


def _own_environments(
    spec: "StudySpec", parallelism: int, share_gpus: bool
) -> list[dict[str, str]]:
    """Return what only one worker has in its environment: its GPUs, where it wants any."""
    count = gpus.wanted(spec)
    if not count:
        return []
    found = gpus.devices({**os.environ, **manifest_environment(spec)})
    return [
        {gpus.VARIABLE: ",".join(devices)}
        for devices in gpus.assign(count, parallelism, found, share=share_gpus)
        if devices
    ]


def proxy_command(address: str) -> Sequence[str]:
    """Return the command line of a proxy; the database's URL is in its environment."""
    return [*TRIALFLEET, "proxy", "--listen", address]


def worker_command(manifest: Path) -> Sequence[str]:
    """Return the command line of a worker; the proxy's address is in its environment."""
    return [
        *(*TRIALFLEET, "worker", "--study", str(manifest)),
        *("--grace", f"{WORKER_GRACE_S:g}", "--log-level", "warning"),
    ]


def share_of_cores(parallelism: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Return how many threads a worker's numerical libraries may use.

    Each would use one for every core, so that several workers slow one another down. What the
    user's environment says is left as it is.
    """
    threads = max(1, (os.cpu_count() or 1) // parallelism)
    return {name: str(threads) for name in _THREADS if name not in environment}


def manifest_environment(spec: "StudySpec") -> dict[str, str]:
    """Return the environment variables that the manifest gives the container ``worker``."""
    containers = (spec.template and spec.template.spec.containers) or []
    return {
        variable.name: variable.value
        for container in containers
        if container.name == "worker"
        for variable in container.env or []
        if variable.value is not None
    }
