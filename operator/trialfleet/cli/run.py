"""``trialfleet run``: a study on this machine, from its manifest to its result."""

import contextlib
import enum
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from trialfleet import names
from trialfleet.api import manifest as manifests
from trialfleet.api.study import Study
from trialfleet.api.study_definition import define as define_study
from trialfleet.cli.sources import DEFAULT_FOLDER, StorageOption, hide_password
from trialfleet.local.attending import Interrupts, attend
from trialfleet.local.dry_plan import define, make_plan
from trialfleet.local.failures import Failures
from trialfleet.local.notices import local_notices
from trialfleet.local.packages import FOLDER, LocalPackages
from trialfleet.local.points import read_points
from trialfleet.local.progress import Shown, make_view, progress_console
from trialfleet.local.worker_logs import WorkerLogs
from trialfleet.model import errors
from trialfleet.model.trial_marks import is_mark
from trialfleet.worker import packages

if TYPE_CHECKING:
    from trialfleet.client import FleetStorage
    from trialfleet.local.supervisor import Fleet, RunPlan

BEST: int = 5

_ENDED = {
    names.ENDED_TRIALS: "the budget of trials is used up",
    names.ENDED_FAILED_TRIALS: "too many trials have failed",
    names.ENDED_TIMEOUT: "its time is over",
    names.ENDED_GOAL: "the goal is reached",
    names.ENDED_PATIENCE: "its last trials have improved nothing",
    names.ENDED_STOPPED: "the sampler or the objective has stopped it",
}


class RunOutput(enum.StrEnum):
    """How the result is written to standard output."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True)
class _Run:
    """What one command is to do."""

    study: Study
    trials: int | None
    """The budget, if it has an end of that kind."""
    plan: "RunPlan"
    output: RunOutput
    plot: Path | None
    again: str
    """The command line that goes on with it."""

    @property
    def where(self) -> str:
        """Where the trials are, for people."""
        if self.plan.storage is None:
            return str(self.plan.folder)
        return hide_password(self.plan.storage)


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A manifest with one Study.")],
    parallelism: Annotated[
        int | None, typer.Option(min=1, help="Workers at once, instead of spec.parallelism.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials in all, instead of spec.budget.trials.")
    ] = None,
    data: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder of PostgreSQL's data, checkpoints and logs."),
    ] = DEFAULT_FOLDER,
    storage: StorageOption = None,
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt", help="Go on with trials of another definition, as spec.adopt says it."
        ),
    ] = False,
    share_gpus: Annotated[
        bool,
        typer.Option("--share-gpus", help="Let workers share GPUs where there are too few."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
    output: Annotated[RunOutput, typer.Option(help="How the result is written.")] = RunOutput.TABLE,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save a picture of the history: .png, .svg or .html."),
    ] = None,
) -> None:
    """Run a study on this machine: PostgreSQL, a proxy, and worker processes.

    Run again, it goes on where it stopped. Ctrl-C ends it in order. Progress is on standard
    error, the result on standard output.
    """
    study, manifest = _read(file)
    points = read_points(study.spec, manifest)
    wanted = packages.read(study.spec, manifest)
    if wanted is not None:
        wanted.check()
    console = progress_console()
    for notice in (*manifest.notices, *local_notices(study.spec)):
        console.print(f"notice: {notice}", markup=False, soft_wrap=True)
    if plot is not None:
        from trialfleet.cli.drawing import check_plot

        check_plot(plot, "--plot")
    options: dict[str, Any] = {
        "--parallelism": parallelism,
        "--trials": trials,
        "--data": None if data == DEFAULT_FOLDER or storage else data,
        "--storage": None if storage is None else hide_password(storage),
        "--plot": plot,
    }
    flags = ["--share-gpus"] if share_gpus else []
    plan = make_plan(
        study,
        file,
        folder=data,
        parallelism=parallelism or max(1, study.spec.parallelism),
        trials=trials,
        points=points,
        storage=storage,
        definition=_definition(study, manifest),
        adopt=adopt,
        write_results=_write_results,
        share_gpus=share_gpus,
        packages=None if wanted is None else LocalPackages(wanted, data / FOLDER),
    )
    total = trials or study.spec.budget.trials
    this = _Run(study, total, plan, output, plot, _command("run", str(file), options, flags))
    if dry_run:
        from trialfleet.cli.dry_run import describe

        describe(
            study, define(study, trials, points=points), plan, as_json=output is RunOutput.JSON
        )
        return
    interrupts = Interrupts()
    with interrupts.handled():
        try:
            _run(this, console, interrupts)
        except KeyboardInterrupt:
            raise typer.Exit(errors.EXIT_INTERRUPTED) from None


def _read(file: Path) -> tuple[Study, manifests.Manifest]:
    """Return the only Study of a file, and what else is in it."""
    manifest = manifests.read(file)
    found = [resource for resource in manifest.resources if isinstance(resource, Study)]
    if len(found) != 1:
        listed = f" ({', '.join(study.metadata.name for study in found)})" if found else ""
        raise errors.InvalidInput(f"{file}: found {len(found)} studies{listed}, accepted: one")
    return found[0], manifest


def _write_results(storage: "FleetStorage", study_id: int, folder: Path) -> None:
    # Not sooner: rich's tables and Optuna are not needed before.
    from trialfleet.cli.trial_output import write_results

    write_results(storage, study_id, folder)


def _definition(study: Study, manifest: manifests.Manifest) -> str:
    """Return a study's definition; empty if its objective's source can't be read."""
    python = study.spec.objective.python
    source = None
    if python is not None and python.file is not None:
        try:
            source = (manifest.path.parent / python.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            # A worker says what is wrong with it.
            return ""
    elif python is not None and python.config_map is not None:
        source = manifest.config_maps.get(python.config_map.name, {}).get(python.config_map.key)
    return define_study(study.spec, source)


def _run(this: _Run, console: Console, interrupts: Interrupts) -> None:
    from trialfleet.local.supervisor import Fleet

    metrics = tuple(objective.name for objective in this.study.spec.objectives)
    view = make_view(Shown(this.study.metadata.name, metrics, this.trials), console)
    failures = Failures()
    logs = WorkerLogs(this.plan.folder, this.study.metadata.name)

    def hear(worker: str, line: str) -> None:
        logs.write(worker, line)
        told = None if is_mark(line) else failures.hear(line)
        if told is not None:
            view.line(told)

    started = time.monotonic()
    try:
        with (
            contextlib.closing(logs),
            Fleet(this.plan, on_output=hear, on_event=view.line) as fleet,
        ):
            before = fleet.crew.summary
            if before.counts.counted and not before.ended:
                view.line(f"going on after {before.counts.counted} finished trials")
            if before.taken:
                view.line(f"begins with {before.taken} finished trials of other studies")
            stopped = attend(fleet, view, interrupts)
            view.close()
            _finish(this, fleet, failures, console, stopped, time.monotonic() - started)
            ended, collate_error = fleet.crew.summary, fleet.crew.collate_error
    except errors.DefinitionDiffers as error:
        raise errors.DefinitionDiffers(f"metadata.name: {error}; {_ways_out(this)}") from error
    finally:
        view.close()
    if stopped:
        raise typer.Exit(errors.EXIT_INTERRUPTED)
    if collate_error is not None:
        raise collate_error
    if ended.ended == names.ENDED_FAILED_TRIALS or not ended.counts.complete:
        raise typer.Exit(errors.EXIT_FAILED)


def _ways_out(this: _Run) -> str:
    source = {"--storage": this.where} if this.plan.storage else {"--data": this.plan.folder}
    delete = _command("studies", f"--delete={this.study.metadata.name}", source)
    return (
        "accepted: the same, --adopt to count them as this study's, another name to begin anew, or "
        f"none: {delete}"
    )


def _finish(
    this: _Run,
    fleet: "Fleet",
    failures: Failures,
    console: Console,
    stopped: bool,
    seconds: float,
) -> None:
    """Write the result."""
    import optuna

    from trialfleet.cli.trial_output import as_json, best_trials, standard_output, table, write_json

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    metrics = [objective.name for objective in this.study.spec.objectives]
    try:
        # By its id: it may have got another name.
        name = fleet.client.get_study_name_from_id(fleet.study_id)
        study = optuna.load_study(study_name=name, storage=fleet.client)
        best = best_trials(study, BEST)
    except KeyError:
        raise errors.deleted(this.study.metadata.name) from None
    plotted = this.plot is not None and bool(best)
    if this.plot is not None and best:
        from trialfleet.cli.drawing import default_kind, save_plot

        save_plot(study, metrics, this.plot, kind=default_kind(metrics))
    summary = fleet.crew.summary
    for line in failures.summary():
        console.print(line, markup=False, soft_wrap=True)
    standard = standard_output()
    if this.output is RunOutput.JSON:
        result: dict[str, Any] = {
            "study": this.study.metadata.name,
            "ended": summary.ended or None,
            "interrupted": stopped,
            "trials": asdict(summary.counts),
            "best": [as_json(trial, metrics) for trial in best],
            "seconds": round(seconds, 3),
            "data": None if this.plan.storage else str(this.plan.folder),
            "storage": this.where if this.plan.storage else None,
            "plot": str(this.plot) if plotted else None,
        }
        write_json(standard.file, result)
        return
    standard.print(_verdict(this, fleet, stopped, seconds), markup=False, soft_wrap=True)
    if best:
        standard.print()
        standard.print(table(best, metrics))
        standard.print()
    if plotted:
        standard.print(f"picture: {this.plot}", markup=False, soft_wrap=True)
    elif this.plot is not None:
        standard.print("no picture: no trial is complete", soft_wrap=True)
    source = {"--storage": this.where} if this.plan.storage else {"--data": this.plan.folder}
    more = _command("trials", name, source)
    standard.print(f"data: {this.where} (all trials: {more})", markup=False, soft_wrap=True)
    if stopped:
        standard.print(f"go on with: {this.again}", markup=False, soft_wrap=True)


def _verdict(this: _Run, fleet: "Fleet", stopped: bool, seconds: float) -> str:
    counts = fleet.crew.summary.counts
    parts = [
        f"{count} {word}"
        for count, word in (
            (counts.complete, "complete"),
            (counts.pruned, "pruned"),
            (counts.failed, "failed"),
            (counts.lost, "lost and retried"),
            (counts.waiting, "waiting"),
        )
        if count
    ]
    total = this.trials
    share = f"{counts.counted} trials" if total is None else f"{counts.counted} of {total} trials"
    text = f"{this.study.metadata.name}: {share} ({', '.join(parts) or 'none'})"
    if stopped:
        return f"{text}; stopped after {seconds:.1f} s"
    why = _ENDED.get(fleet.crew.summary.ended, "no worker found more to do")
    return f"{text} in {seconds:.1f} s; {why}"


def _command(command: str, subject: str, options: dict[str, Any], flags: Sequence[str] = ()) -> str:
    words = ["trialfleet", command, subject]
    for name, value in options.items():
        if value is not None:
            words += [name, str(value)]
    return shlex.join([*words, *flags])
