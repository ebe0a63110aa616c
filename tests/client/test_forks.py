"""A storage object and other processes: by spawn it works anew, by fork through its parent."""

import multiprocessing
import subprocess
import sys
from multiprocessing.connection import Connection as Pipe
from typing import Any

import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tests.client.fake import FakeProxy
from trialfleet.client import FleetStorage
from trialfleet.model.errors import ForkedProcess

MINIMIZE = [StudyDirection.MINIMIZE]


def _run_trial(storage: FleetStorage, study_id: int, pipe: Pipe) -> None:
    trial_id = storage.ask(study_id) or 0
    storage.set_trial_param(trial_id, "x", 0.5, FloatDistribution(0, 1))
    with pytest.raises(KeyError):
        storage.get_trial(7)
    told = storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    pipe.send([told, [trial.number for trial in storage.get_all_trials(study_id)]])
    storage.close()


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads
def test_a_copy_in_another_process(fake: FakeProxy, storage: FleetStorage, method: str) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    trial_id = storage.ask(study_id) or 0
    context: Any = multiprocessing.get_context(method)
    here, there = context.Pipe()
    child = context.Process(target=_run_trial, args=(storage, study_id, there))
    child.start()
    assert here.poll(30), "the process hangs"
    assert here.recv() == [True, [0, 1]]
    child.join(30)
    assert child.exitcode == 0
    # The trial of this process goes on, and so does its session.
    assert storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [2.0])
    assert [trial.value for trial in storage.get_all_trials(study_id)] == [2.0, 1.0]


def _make_anew(address: str, pipe: Pipe) -> None:
    storage = FleetStorage(address)
    try:
        storage.get_all_studies()
    except ForkedProcess as error:
        pipe.send(str(error))
    storage.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_one_that_is_made_in_a_forked_process_says_that_it_can_not(
    fake: FakeProxy, storage: FleetStorage
) -> None:
    storage.get_all_studies()
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_make_anew, args=(fake.address, there))
    child.start()
    assert here.poll(30), "the process hangs"
    assert here.recv().endswith("accepted: processes that are started by spawn or forkserver")
    child.join(30)
    assert child.exitcode == 0


def test_a_process_that_was_forked_before_the_first_call(fake: FakeProxy) -> None:
    code = f"""
import os
from trialfleet.client import FleetStorage
storage = FleetStorage({fake.address!r})
if os.fork() == 0:
    assert storage.get_all_studies() == []
else:
    assert os.wait()[1] == 0
    assert storage.get_all_studies() == []
"""
    _quiet(code)


def test_a_forked_child_that_ends_as_any_process_does(fake: FakeProxy) -> None:
    code = f"""
import os, sys
from optuna.study import StudyDirection
from trialfleet.client import FleetStorage
storage = FleetStorage({fake.address!r})
study_id = storage.create_new_study([StudyDirection.MINIMIZE])
storage.ask(study_id)
if os.fork() == 0:
    sys.exit()
assert os.wait()[1] == 0
assert storage.ask(study_id) is not None
"""
    _quiet(code)
    assert fake.counts()["CloseSession"] == 1


def _quiet(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
