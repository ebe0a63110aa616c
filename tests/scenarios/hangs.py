"""Scenarios: a process that hangs instead of dying is started again, and the study goes on."""

import pytest

from tests.controller.kube import wait_for
from tests.scenarios.env import Env

HANG_TWICE = """
import ctypes, time
def objective(trial):
    x = trial.suggest_float("x", -1, 1)
    if trial.number == 1:
        # C code that never lets another thread run: the process is as good as stopped.
        ctypes.PyDLL(None).sleep(3600)
    if trial.number == 2:
        print("to be stopped", flush=True)
        time.sleep(3600)
    return x * x
"""


def test_workers_that_hang_are_replaced(env: Env) -> None:
    """One by its objective, the other by a signal that no process sees."""
    env.study("hung", source=HANG_TWICE, parallelism=3, budget={"trials": 12})

    def found() -> str | None:
        names = [pod["metadata"]["name"] for pod in env.workers("hung")]
        return next((name for name in names if "to be stopped" in env.log(name)), None)

    stopped = wait_for("the worker to stop", found, env.patience_s)
    env.hang(stopped, "worker")
    wait_for("the event", lambda: "WorkerSilent" in env.reasons("hung"), 120)
    study = env.wait_condition("hung", "Complete")
    trials = study["status"]["trials"]
    assert (trials["complete"], trials["failed"], trials["running"]) == (12, 0, 0)
    assert study["status"]["lostReasons"] == {"KeepAliveExpired": 2}
    env.wait_no_pods("hung")


@pytest.mark.parametrize("part", ["proxy", "postgres"])
def test_a_part_of_the_storage_that_hangs_is_started_again(env: Env, part: str) -> None:
    """The only proxy, or PostgreSQL: its port stays open, and the study would wait for ever."""
    storage, study = f"stopped-{part}", f"behind-{part}"
    env.storage(storage, postgres={"managed": {"emptyDir": {}}})
    env.study(study, seconds=0.3, budget={"trials": 60}, storage={"name": storage})
    env.wait_trials(study, 3)
    (pod,) = env.pods(storage, part)
    env.hang(pod["metadata"]["name"], part)

    def restarted() -> bool:
        (there,) = env.pods(storage, part)
        (container,) = there["status"]["containerStatuses"]
        assert there["metadata"]["uid"] == pod["metadata"]["uid"]
        return bool(container["restartCount"])

    wait_for(f"{part} is started again", restarted, 120)
    ended = env.wait_condition(study, "Complete")
    # What was acknowledged before is there, and no worker was given up for having waited.
    trials = ended["status"]["trials"]
    assert (trials["complete"], trials["failed"], trials["lost"]) == (60, 0, 0)
    env.kube.delete("studies", study)
    env.wait_no_pods(study)
    env.kube.delete("studystorages", storage)
