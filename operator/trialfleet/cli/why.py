"""``trialfleet why``: what is in a study's way, and what to do."""

import collections
import datetime

import optuna
from optuna.trial import TrialState
from rich.console import Console

from trialfleet import names
from trialfleet.cli.credential_options import CaFileOption, TokenFileOption
from trialfleet.cli.sources import (
    ContextOption,
    DataOption,
    NamespaceOption,
    ProxyOption,
    StorageOption,
    StudyArgument,
    Where,
    open_study,
)
from trialfleet.cluster.advice import advise


def why(
    study: StudyArgument = None,
    data: DataOption = None,
    storage: StorageOption = None,
    proxy: ProxyOption = None,
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Say in one page what is in a study's way, and what to do about it.

    On a cluster: conditions with their reasons, the last failure, Events, and the words of pods
    that are not well. Elsewhere: how trials have failed.
    """
    where = Where(data, storage, proxy, token_file, ca_file, namespace, context)
    console = Console(highlight=False)
    with where.open_namespace() as cluster:
        if cluster is not None:
            from trialfleet.cluster import connect
            from trialfleet.cluster.diagnosis import examine

            found = connect.find_study(cluster, study)
            now = datetime.datetime.now(datetime.UTC)
            for section in examine(cluster, found, now):
                _write(console, section.title, section.lines)
            return
        with where.open_storage() as source:
            _write_failures(console, open_study(source, study))


def _write(console: Console, title: str, lines: "collections.abc.Iterable[str]") -> None:
    if title:
        console.print()
        console.print(title, style="bold", markup=False)
    for line in lines:
        console.print(f"  {line}" if title else line, markup=False, soft_wrap=True)


def _write_failures(console: Console, study: optuna.Study) -> None:
    trials = study.get_trials(deepcopy=False)
    states = collections.Counter(trial.state.name.lower() for trial in trials)
    counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    _write(console, "", [f"{study.study_name}: {counts or 'no trials'}"])
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    if not failed:
        _write(console, "In the way", ["nothing is known: no trial has failed or was lost"])
        return
    reasons = collections.Counter(
        str(trial.system_attrs.get(names.ATTR_REASON) or "unknown") for trial in failed
    )
    lines = []
    for reason, count in reasons.most_common():
        advice = advise(reason, study.study_name)
        lines += [f"{count} {reason}", *([f"  do: {advice}"] if advice else [])]
    _write(console, "Failed or lost trials", lines)
    attributes = failed[-1].system_attrs
    said = attributes.get(names.ATTR_TRACEBACK) or attributes.get(names.ATTR_MESSAGE) or ""
    _write(console, f"The last one: trial {failed[-1].number}", str(said).splitlines())
