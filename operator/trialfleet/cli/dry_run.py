"""``trialfleet run --dry-run``: what would run, and where its data would be."""

import shlex
import sys
from typing import TYPE_CHECKING, Any

from trialfleet.api.study import Study
from trialfleet.cli.sources import hide_password
from trialfleet.cli.trial_output import write_json
from trialfleet.local import gpus
from trialfleet.local.postgres import has_data

if TYPE_CHECKING:
    from trialfleet.client import StudyDefinition
    from trialfleet.local.crew import Workforce
    from trialfleet.local.packages import LocalPackages
    from trialfleet.local.run_once import RunOnce
    from trialfleet.local.supervisor import RunPlan

_ADDRESS = "127.0.0.1:PORT"


def describe(
    study: Study, definition: "StudyDefinition", plan: "RunPlan", *, as_json: bool
) -> None:
    """Write to standard output what ``plan`` would run; start and write nothing else."""
    described = _description(study, definition, plan)
    if as_json:
        write_json(sys.stdout, described)
        return
    for name, value in described.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, item in value.items():
                print(f"  {key}: {_text(item)}")
        else:
            print(f"{name}: {_text(value)}")


def _description(study: Study, definition: "StudyDefinition", plan: "RunPlan") -> dict[str, Any]:
    spec = study.spec
    workforce = plan.workforce(_ADDRESS)
    return {
        "study": study.metadata.name,
        "objectives": {objective.name: objective.direction for objective in spec.objectives},
        "sampler": {"name": spec.sampler.name, **spec.sampler.options},
        "pruner": {"name": spec.pruner.name, **spec.pruner.options},
        "budget": {
            "trials": definition.trials,
            "failedTrials": definition.failed_trials,
            "timeout_s": definition.timeout_s,
            "patience": definition.patience,
            "retries": definition.retries,
        },
        **({"warmStart": list(definition.warm_start)} if definition.warm_start else {}),
        "first": [dict(point) for point in definition.enqueue],
        "processes": {
            "postgres": _postgres(plan),
            "proxy": shlex.join(plan.proxy("127.0.0.1:0")),
            "workers": workforce.parallelism,
            "worker": shlex.join(workforce.command),
            **_gpus(workforce),
            **_packages(plan.packages),
            **_once(plan.prepare),
            **_once(plan.collate),
        },
        "environment": dict(workforce.environment),
    }


def _gpus(workforce: "Workforce") -> dict[str, list[str]]:
    owned = [own[gpus.VARIABLE] for own in workforce.own_environments]
    return {"gpus": owned} if owned else {}


def _packages(wanted: "LocalPackages | None") -> dict[str, str]:
    if wanted is None:
        return {}
    done = "installed" if wanted.folder.is_dir() else "to be installed"
    return {"packages": f"{wanted.wanted}, {done} in {wanted.folder}"}


def _once(task: "RunOnce | None") -> dict[str, list[str]]:
    if task is None:
        return {}
    return {task.name: [shlex.join(program.arguments) for program in task.programs]}


def _postgres(plan: "RunPlan") -> str:
    if plan.storage is not None:
        return f"not started: {hide_password(plan.storage)}"
    made = "goes on with the data that are there" if has_data(plan.folder) else "makes new data"
    return f"{made}, in {plan.folder.absolute() / 'postgres'}"


def _text(value: object) -> str:
    if value is None:
        return "no end"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
