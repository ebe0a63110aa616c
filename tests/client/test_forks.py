"""A storage object and other processes: by spawn it works anew, by fork it says that it can't."""

import multiprocessing
import subprocess
import sys
from multiprocessing.connection import Connection as Pipe

import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tests.client.fake import FakeProxy
from trialfleet.client import FleetStorage
from trialfleet.model.errors import ForkedProcess

MINIMIZE = [StudyDirection.MINIMIZE]


def _run_trial(storage: FleetStorage, study_id: int, pipe: Pipe) -> None:
    try:
        trial_id = storage.ask(study_id) or 0
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
        pipe.send("told")
    except ForkedProcess as error:
        pipe.send(str(error))
    storage.close()


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("spawn", "told"),
        ("forkserver", "told"),
        (
            "fork",
            "a process that was forked from one that uses a storage can't call a proxy (gRPC's "
            "threads are not in it); accepted: processes that are started by spawn or forkserver",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads
def test_a_copy_in_another_process(
    fake: FakeProxy, storage: FleetStorage, method: str, said: str
) -> None:
    study_id = storage.create_new_study(MINIMIZE)
    trial_id = storage.ask(study_id) or 0
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    child = context.Process(target=_run_trial, args=(storage, study_id, there))  # type: ignore[attr-defined]
    child.start()
    assert here.poll(30), "the process hangs"
    assert here.recv() == said
    child.join(30)
    assert child.exitcode == 0
    # The trial of this process goes on, and so does its session.
    assert storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [2.0])
    assert len(fake.database.trials) == (1 if method == "fork" else 2)


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
