"""What callbacks of ``trialfleet.optimize`` do comes before the next trial, as with Optuna."""

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

import trialfleet


def plain(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1)


def narrow(study: optuna.Study, trial: FrozenTrial) -> None:
    """Enqueue a point that depends on the best one so far."""
    study.enqueue_trial({"x": study.best_params["x"] / 2})


def stop_at_third(study: optuna.Study, trial: FrozenTrial) -> None:
    if trial.number == 2:
        study.stop()


@pytest.mark.parametrize(
    "callback",
    [
        narrow,
        stop_at_third,
        optuna.study.MaxTrialsCallback(4, states=(TrialState.COMPLETE,)),
    ],
    ids=["enqueue", "stop", "most-trials"],
)
def test_with_one_job_as_stock(callback: object) -> None:
    stock = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    stock.optimize(plain, n_trials=6, callbacks=[callback])  # type: ignore[list-item]
    ours = trialfleet.optimize(
        plain,
        6,
        sampler=optuna.samplers.RandomSampler(seed=1),
        callbacks=[callback],  # type: ignore[list-item]
    )
    assert [(t.state, t.params) for t in ours.trials] == [(t.state, t.params) for t in stock.trials]


def test_with_more_jobs_before_the_next_trial_of_the_worker_that_told() -> None:
    seen: list[int] = []

    def enqueue(study: optuna.Study, trial: FrozenTrial) -> None:
        seen.append(trial.number)
        study.enqueue_trial({"x": 0.5}, user_attrs={"after": trial.number})

    study = trialfleet.optimize(plain, 12, n_jobs=2, callbacks=[enqueue])
    ran = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    assert sorted(seen) == list(range(12))
    # Each of two workers opens one trial before it waits for a callback.
    assert sum(trial.params["x"] != 0.5 for trial in ran) <= 2


def test_a_trial_that_fails_waits_for_its_callback_too() -> None:
    def fail(trial: optuna.Trial) -> float:
        raise ValueError(trial.number)

    study = trialfleet.optimize(fail, 9, catch=ValueError, callbacks=[stop_at_third])
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 3
