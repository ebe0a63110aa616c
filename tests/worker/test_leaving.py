"""Workers that are called away: by signals, time limits, and proxies that are gone."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.client.proxies import Proxy
from tests.worker.fleet import TIMEOUT_S, Study, Worker, source
from trialfleet import names
from trialfleet.client import FleetStorage
from trialfleet.model import errors

MakeStudy = Callable[..., Study]
StartWorker = Callable[..., Worker]


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def waiting_for(gate: Path) -> str:
    """Return the source of an objective that runs until there is a file."""
    return f"""
        import pathlib, time

        def objective(trial):
            x = trial.suggest_float("x", 0, 1)
            print(x, flush=True)
            while not pathlib.Path({str(gate)!r}).exists():
                time.sleep(0.01)
            return x
        """


ENDLESS = """
    import time

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        print(x, flush=True)
        if trial.number == 0:
            {loop}
        return x
    """


def test_sigterm_lets_the_running_trial_finish(
    make_study: MakeStudy, start_worker: StartWorker, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    study = make_study(source(waiting_for(gate)), trials=2)
    worker = start_worker(study)
    worker.line()
    worker.terminate()
    worker.until_logged("INFO got SIGTERM: finishing the running trial, 25 s at most")
    gate.touch()

    assert worker.wait() == errors.EXIT_DRAINED
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]
    assert study.summary.sessions == 0


def test_a_trial_that_outlasts_the_grace_is_handed_back(
    make_study: MakeStudy, start_worker: StartWorker, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    study = make_study(source(waiting_for(gate)))
    worker = start_worker(study, "--grace", "0.1")
    x = float(worker.line())
    worker.terminate()

    assert worker.wait() == errors.EXIT_DRAINED
    assert "INFO trial 0 handed back\n" in worker.errors
    assert study.summary.counts.waiting == 1
    assert study.summary.sessions == 0

    gate.touch()
    assert start_worker(study).wait() == errors.EXIT_OK
    (trial,) = study.trials
    assert (trial.number, trial.params, trial.value) == (0, {"x": x}, x)


def test_a_second_signal_hands_back_at_once(
    make_study: MakeStudy, start_worker: StartWorker, tmp_path: Path
) -> None:
    study = make_study(source(waiting_for(tmp_path / "gate")))
    worker = start_worker(study, "--grace", "1000")
    worker.line()
    worker.terminate()
    worker.popen.send_signal(signal.SIGINT)

    assert worker.wait() == errors.EXIT_DRAINED
    assert study.summary.counts.waiting == 1


def test_an_idle_worker_leaves_at_once(
    make_study: MakeStudy, start_worker: StartWorker, tmp_path: Path
) -> None:
    study = make_study(source(waiting_for(tmp_path / "gate")))
    start_worker(study).line()
    idle = start_worker(study, "--grace", "1000")
    deadline = time.monotonic() + TIMEOUT_S
    while study.summary.sessions < 2:
        assert time.monotonic() < deadline
    idle.terminate()

    assert idle.wait() == errors.EXIT_DRAINED
    assert study.summary.counts.running == 1


def test_a_worker_that_still_imports_leaves_at_once(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    study = make_study(
        source(
            """
            import threading
            print("importing", flush=True)
            threading.Event().wait()
            def objective(trial): return 1
            """
        )
    )
    worker = start_worker(study, "--grace", "1000")
    assert worker.line() == "importing"
    worker.terminate()

    assert worker.wait() == errors.EXIT_DRAINED
    assert study.trials == []


@pytest.mark.parametrize(
    "loop",
    [
        pytest.param(
            "while True:\n                try: time.sleep(0.01)\n                except: pass",
            id="swallows every exception",
        ),
        pytest.param(
            "import hashlib; hashlib.pbkdf2_hmac('sha256', b'x', b'x', 10**9)", id="is in C code"
        ),
    ],
)
def test_an_objective_that_can_t_be_interrupted_is_handed_back_too(
    make_study: MakeStudy, start_worker: StartWorker, loop: str
) -> None:
    study = make_study(source(ENDLESS.format(loop=loop)))
    worker = start_worker(study, "--grace", "0.1")
    x = float(worker.line())
    worker.terminate()

    assert worker.wait() == errors.EXIT_DRAINED
    (trial,) = study.trials
    assert trial.state is TrialState.WAITING
    assert trial.params == {"x": x}
    assert study.summary.sessions == 0


def test_terminating_a_forked_child_is_no_signal_to_the_worker(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    study = make_study(
        source(
            """
            import multiprocessing, time

            def objective(trial):
                fork = multiprocessing.get_context("fork")
                child = fork.Process(target=time.sleep, args=(1000,))
                child.start()
                child.terminate()
                child.join()
                with fork.Pool(2) as pool:
                    return sum(pool.map(abs, [child.exitcode, 1]))
            """
        ),
        trials=5,
    )
    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OK
    assert [trial.value for trial in study.trials] == [signal.SIGTERM + 1] * 5


@pytest.mark.parametrize(
    ("loop", "caught"),
    [
        ("while True: pass", ""),
        ("time.sleep(1000)", ""),
        ("time.sleep(1000)", "Exception"),
        ("time.sleep(1000)", "BaseException"),
    ],
)
def test_a_trial_beyond_its_time_limit_has_failed(
    make_study: MakeStudy, start_worker: StartWorker, loop: str, caught: str
) -> None:
    if caught:
        indent = "\n" + 12 * " "
        loop = f"try:{indent}    {loop}{indent}except {caught}:{indent}    return 1.0"
    study = make_study(source(ENDLESS.format(loop=loop)), trials=2, trial_timeout="300ms")
    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OK
    failed, complete = study.trials
    assert failed.state is TrialState.FAIL
    assert failed.system_attrs[names.ATTR_REASON] == names.REASON_TRIAL_TIMEOUT
    message = failed.system_attrs[names.ATTR_MESSAGE]
    place = "" if caught == "BaseException" else f" (objective.py:{9 if caught else 8})"
    assert message == f"not done after its time limit of 0.3 s{place}"
    if place:
        assert failed.system_attrs[names.ATTR_TRACEBACK].startswith(
            'Traceback (most recent call last):\n  File "objective.py"'
        )
    assert complete.state is TrialState.COMPLETE


def test_an_objective_that_can_t_be_interrupted_ends_the_process_after_its_time(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    swallows = "while True:\n                try: time.sleep(0.01)\n                except: pass"
    holds_the_lock = "import ctypes; ctypes.PyDLL(None).sleep(1000)"
    studies = [
        make_study(source(ENDLESS.format(loop=loop)), trials=2, trial_timeout="200ms")
        for loop in (swallows, holds_the_lock)
    ]
    # Both at once: each takes as long as an objective is given to end by itself.
    told, silent = (start_worker(study) for study in studies)

    assert told.wait() == errors.EXIT_OVERRUN
    (trial,) = studies[0].trials
    assert trial.state is TrialState.FAIL
    assert trial.system_attrs[names.ATTR_REASON] == names.REASON_TRIAL_TIMEOUT
    assert studies[0].summary.sessions == 0
    assert start_worker(studies[0]).wait() == errors.EXIT_OK

    assert silent.wait() == errors.EXIT_FAILED
    assert 'File "objective.py", line 8 in objective' in silent.errors


def test_a_proxy_that_is_killed_and_comes_back(
    database_url: str, start_worker: StartWorker, tmp_path: Path, cleanup: ExitStack
) -> None:
    proxy = Proxy(database_url)
    cleanup.callback(proxy.stop)
    client = FleetStorage(proxy.address)
    cleanup.callback(client.close)
    ledger = tmp_path / "ledger"
    study = Study(
        client,
        tmp_path,
        source(
            f"""
            import time

            def objective(trial):
                x = trial.suggest_float("x", 0, 1)
                for step in range(3):
                    trial.report(x, step)
                    trial.should_prune()
                    time.sleep(0.01)
                with open({str(ledger)!r}, "a") as file:
                    file.write(f"{{trial.number}} {{x!r}}\\n")
                print(trial.number, flush=True)
                return x
            """
        ),
        trials=60,
        pruner={"name": "NopPruner"},
    )
    worker = start_worker(study, address=proxy.address)
    for restart in range(3):
        while int(worker.line()) < 10 + 15 * restart:
            pass
        proxy.kill()
        proxy = Proxy(database_url, proxy.address)
        cleanup.callback(proxy.stop)

    assert worker.wait() == errors.EXIT_OK
    trials = study.trials
    written = [line.split() for line in ledger.read_text().splitlines()]
    assert [(int(number), float(x)) for number, x in written] == [
        (trial.number, trial.value) for trial in trials
    ]
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 60
    assert "INFO the study has ended (TrialsComplete) after 60 trials\n" in worker.errors


def test_a_worker_whose_patience_is_over_says_so(
    database_url: str, start_worker: StartWorker, tmp_path: Path, cleanup: ExitStack
) -> None:
    proxy = Proxy(database_url)
    cleanup.callback(proxy.stop)
    client = FleetStorage(proxy.address)
    cleanup.callback(client.close)
    gate = tmp_path / "gate"
    study = Study(client, tmp_path, source(waiting_for(gate)))
    worker = start_worker(study, "--patience", "0.5", address=proxy.address)
    worker.line()
    proxy.kill()
    gate.touch()

    assert worker.wait() == errors.EXIT_UNAVAILABLE
    assert "Traceback" not in worker.errors
    assert f"no proxy answered within 0.5 s at {proxy.address}" in worker.errors
