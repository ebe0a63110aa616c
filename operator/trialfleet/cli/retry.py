"""``trialfleet retry``: failed trials once more."""

from collections.abc import Sequence
from typing import Annotated, Final

import optuna
import typer
from optuna.trial import FrozenTrial, TrialState, create_trial

from trialfleet import names
from trialfleet.cli.credential_options import CaFileOption, TokenFileOption
from trialfleet.cli.sources import (
    ContextOption,
    DataOption,
    NamedStudyArgument,
    NamespaceOption,
    ProxyOption,
    StorageOption,
    Where,
)
from trialfleet.client import FleetStorage
from trialfleet.local.failures import is_lost
from trialfleet.model import errors

_GO_ON: Final = {
    names.ENDED_TRIALS: "spec.budget.trials is {trials} or more",
    names.ENDED_FAILED_TRIALS: "spec.budget.failedTrials is more than {failed}, and "
    "spec.budget.trials, if set, {trials} or more",
    names.ENDED_TIMEOUT: "spec.budget.timeout is longer",
    names.ENDED_GOAL: "its goal is another",
    names.ENDED_PATIENCE: "spec.budget.patience.trials is more",
    names.ENDED_STOPPED: "its budget is changed: spec.budget.trials {trials} or more",
}
"""What lets a study that has ended go on."""


def retry(
    study: NamedStudyArgument,
    trial: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="Only this trial; may be repeated."),
    ] = None,
    data: DataOption = None,
    storage: StorageOption = None,
    proxy: ProxyOption = None,
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Have failed trials run again, with the same parameters.

    A trial that was tried again already is left out, unless it is named. The failed trials stay,
    and count in the budget as before.
    """
    where = Where(data, storage, proxy, token_file, ca_file, namespace, context)
    with where.open_study(study) as found:
        trials = found.get_trials(deepcopy=False)
        chosen = choose(trials, trial or ())
        for failed in chosen:
            found.add_trial(_again(failed))
        if not chosen:
            print(f"{study}: no failed trial with parameters is left to be tried again")
            return
        listed = ", ".join(str(failed.number) for failed in chosen)
        waiting = "trial waits" if len(chosen) == 1 else "trials wait"
        print(f"{study}: {len(chosen)} {waiting}, with the parameters of {listed}")
        for line in _how_to_go_on(found, trials, len(chosen)):
            print(line)


def choose(trials: Sequence[FrozenTrial], numbers: Sequence[int]) -> list[FrozenTrial]:
    """Return the failed trials to be tried again, or those with these numbers.

    Left out, unless they are named, are those that have a later try. A trial that failed before
    it had a parameter has nothing that could be tried again.

    Raises ``InvalidInput`` if a number is that of no failed trial with parameters.
    """
    failed = {
        trial.number: trial for trial in trials if trial.state == TrialState.FAIL and trial.params
    }
    for number in numbers:
        if number not in failed:
            listed = ", ".join(map(str, sorted(failed))) or "none, for there is none"
            raise errors.InvalidInput(
                f"--trial: found {number}, accepted: a failed trial with parameters: {listed}"
            )
    if numbers:
        return [failed[number] for number in dict.fromkeys(numbers)]
    tried_again = {number for trial in trials for number in _history(trial)}
    return [trial for number, trial in sorted(failed.items()) if number not in tried_again]


def _history(trial: FrozenTrial) -> list[int]:
    history = trial.system_attrs.get(names.ATTR_RETRY_HISTORY)
    return history if isinstance(history, list) else []


def _again(failed: FrozenTrial) -> FrozenTrial:
    """Return the waiting trial that tries a failed one again, linked to it as a lost one's is."""
    history = [*_history(failed), failed.number]
    return create_trial(
        state=TrialState.WAITING,
        user_attrs=failed.user_attrs,
        system_attrs={
            # Also those that were given and not asked for yet.
            names.ATTR_FIXED_PARAMS: {
                **failed.system_attrs.get(names.ATTR_FIXED_PARAMS, {}),
                **failed.params,
            },
            names.ATTR_FAILED_TRIAL: history[0],
            names.ATTR_RETRY_HISTORY: history,
        },
    )


def _how_to_go_on(study: optuna.Study, before: Sequence[FrozenTrial], added: int) -> Sequence[str]:
    """Return what its user has to do so that trials that were added are run, if anything."""
    failed = sum(trial.state == TrialState.FAIL and not is_lost(trial) for trial in before)
    lost = sum(trial.state == TrialState.FAIL for trial in before) - failed
    needed = len(before) - lost + added
    storage = study._storage
    if not isinstance(storage, FleetStorage):
        return [
            f"a run takes them before other trials, if its budget has room: {needed} trials in all "
            f"(trialfleet run FILE --trials {needed})"
        ]
    ended = storage.summary(study._study_id).ended
    if not ended:
        return []
    told = _GO_ON[ended].format(trials=needed, failed=failed)
    return [f"the study has ended ({ended}); they run when {told}: trialfleet submit FILE"]
