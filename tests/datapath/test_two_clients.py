"""Optuna's own semantics where two clients meet on one trial."""

import subprocess
import sys
import warnings
from collections.abc import Iterator

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage, GrpcStorageProxy
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tests.client.proxies import Proxy
from tests.proxy.running import eventually
from trialfleet.client import FleetStorage
from trialfleet.model.errors import SessionGivenUp

MINIMIZE = [StudyDirection.MINIMIZE]


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    proxy = Proxy(database_url)
    yield proxy
    proxy.stop()


@pytest.fixture
def ours(proxy: Proxy) -> Iterator[FleetStorage]:
    storage = FleetStorage(proxy.address)
    yield storage
    storage.close()


@pytest.fixture
def stock(proxy: Proxy) -> Iterator[GrpcStorageProxy]:
    host, _, port = proxy.address.rpartition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        storage = GrpcStorageProxy(host=host, port=int(port))
    yield storage
    storage.remove_session()


def _studies(ours: FleetStorage, stock: BaseStorage) -> tuple[optuna.Study, optuna.Study]:
    created = optuna.create_study(study_name="s", storage=ours)
    return created, optuna.load_study(study_name="s", storage=stock)


def test_a_tell_that_is_not_stored_is_an_error(ours: FleetStorage, stock: GrpcStorageProxy) -> None:
    mine, theirs = _studies(ours, stock)
    trial = mine.ask()
    theirs.tell(trial.number, 0.5)
    with pytest.raises(ValueError, match="COMPLETE"):
        mine.tell(trial, 9.0)
    # The same state and value are no proof either.
    second = mine.ask()
    theirs.tell(second.number, 9.0)
    with pytest.raises(ValueError, match="COMPLETE"):
        mine.tell(second, 9.0)
    assert [t.value for t in mine.trials] == [t.value for t in theirs.trials] == [0.5, 9.0]


def test_a_trial_that_another_ended_raises_at_once(
    ours: FleetStorage, stock: GrpcStorageProxy
) -> None:
    mine, theirs = _studies(ours, stock)
    trial = mine.ask()
    theirs.tell(trial.number, state=TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError):
        trial.report(1.0, 1)
    with pytest.raises(UpdateFinishedTrialError):
        trial.set_user_attr("a", 1)


def test_a_workers_trial_that_another_ended_is_dropped(
    ours: FleetStorage, stock: GrpcStorageProxy
) -> None:
    mine, theirs = _studies(ours, stock)
    trial_id = ours.ask(mine._study_id) or 0
    theirs.tell(0, state=TrialState.FAIL)
    assert not ours.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    assert theirs.trials[0].state == TrialState.FAIL


def test_what_a_trial_gains_is_stored_at_once(ours: FleetStorage, stock: GrpcStorageProxy) -> None:
    """Another client may end it at any time: what is not there by then is lost."""
    mine, theirs = _studies(ours, stock)
    trial = mine.ask()
    trial.suggest_float("x", 0, 1)
    trial.report(0.5, 1)
    trial.set_user_attr("a", 1)
    theirs.tell(trial.number, 0.5)
    (found,) = theirs.trials
    assert (list(found.params), found.intermediate_values, found.user_attrs) == (
        ["x"],
        {1: 0.5},
        {"a": 1},
    )


def test_what_others_write_is_seen(ours: FleetStorage, stock: GrpcStorageProxy) -> None:
    mine, theirs = _studies(ours, stock)
    trial = mine.ask()
    stock.set_trial_user_attr(trial._trial_id, "by", "dashboard")
    trial.set_user_attr("mine", 1)
    assert ours.get_trial(trial._trial_id).user_attrs == {"by": "dashboard", "mine": 1}
    stock.set_trial_user_attr(trial._trial_id, "later", 2)
    mine.tell(trial, 1.0)
    found = ours.get_trial(trial._trial_id)
    assert found.user_attrs == {"by": "dashboard", "mine": 1, "later": 2}
    assert found == theirs.trials[0]


def test_a_worker_sees_what_others_write_to_its_trial(
    ours: FleetStorage, stock: GrpcStorageProxy
) -> None:
    mine, theirs = _studies(ours, stock)
    trial_id = ours.ask(mine._study_id) or 0
    stock.set_trial_user_attr(trial_id, "by", "dashboard")
    ours.set_trial_user_attr(trial_id, "mine", 1)
    expected = {"by": "dashboard", "mine": 1}
    eventually(lambda: ours.get_trial(trial_id).user_attrs == expected)
    stock.set_trial_user_attr(trial_id, "by", "another")
    eventually(lambda: mine.trials[0].user_attrs == {"by": "another", "mine": 1})
    stock.set_trial_user_attr(trial_id, "later", 2)
    assert ours.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    found = ours.get_trial(trial_id)
    assert found.user_attrs == {"by": "another", "mine": 1, "later": 2}
    assert found == theirs.trials[0]


def test_a_worker_sees_that_another_ended_its_trial(
    ours: FleetStorage, stock: GrpcStorageProxy
) -> None:
    mine, theirs = _studies(ours, stock)
    trial_id = ours.ask(mine._study_id) or 0
    theirs.tell(0, state=TrialState.FAIL)
    eventually(lambda: ours.get_trial(trial_id).state == TrialState.FAIL)
    with pytest.raises(SessionGivenUp):
        ours.set_trial_user_attr(trial_id, "a", 1)


def test_a_trial_begins_when_the_storage_says(ours: FleetStorage, stock: GrpcStorageProxy) -> None:
    mine, theirs = _studies(ours, stock)
    trial = mine.ask()
    assert trial.datetime_start == theirs.trials[0].datetime_start


ASKING = """
import sys, optuna
from trialfleet.client import FleetStorage
storage = FleetStorage({address!r})
trial = optuna.load_study(study_name="s", storage=storage).ask()
trial.suggest_float("x", 0, 1)
{end}
"""


@pytest.mark.parametrize("end", ["storage.close()", "del storage, trial", "import os; os._exit(0)"])
def test_ask_here_and_tell_elsewhere(
    proxy: Proxy, ours: FleetStorage, stock: GrpcStorageProxy, end: str
) -> None:
    mine, _ = _studies(ours, stock)
    code = ASKING.format(address=proxy.address, end=end)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    (trial,) = mine.trials
    assert trial.state == TrialState.RUNNING
    assert list(trial.params) == ["x"]
    mine.tell(trial.number, 0.5)
    assert [t.value for t in mine.trials] == [0.5]
    assert mine.ask().number == 1


def test_a_worker_hands_its_trial_back(
    proxy: Proxy, ours: FleetStorage, stock: GrpcStorageProxy
) -> None:
    mine, _ = _studies(ours, stock)
    worker = FleetStorage(proxy.address)
    assert worker.ask(mine._study_id)
    worker.close()
    assert [t.state for t in mine.trials] == [TrialState.WAITING]
