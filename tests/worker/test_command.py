"""Worker processes whose objective is a program."""

import json
import os
import select
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.worker.fleet import TIMEOUT_S, Study, Worker
from trialfleet import names
from trialfleet.model import errors

MakeStudy = Callable[..., Study]
StartWorker = Callable[..., Worker]

SPACE = {
    "lr": {"float": {"low": 1e-6, "high": 1.0, "log": True}},
    "depth": {"int": {"low": 1, "high": 9}},
    "kind": {"categorical": ["a b", True, None]},
}


@pytest.fixture
def make_command(make_study: MakeStudy) -> MakeStudy:
    """Make a study of a program."""

    def make(args: list[str], *, command: dict[str, Any] | None = None, **spec: Any) -> Study:
        spec.setdefault("searchSpace", {"x": {"float": {"low": 0.0, "high": 1.0}}})
        return make_study({"command": {"args": args, **(command or {})}}, **spec)

    return make


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[[], bytes]]:
    """Return what was written to ``running``, a named pipe; nothing when nobody has it open."""
    os.mkfifo(tmp_path / "running")
    pipe = os.open(tmp_path / "running", os.O_RDONLY | os.O_NONBLOCK)

    def read() -> bytes:
        assert select.select([pipe], [], [], TIMEOUT_S)[0]
        return os.read(pipe, 100)

    yield read
    os.close(pipe)


def failure(trial: FrozenTrial) -> tuple[str, str]:
    assert trial.state is TrialState.FAIL
    return trial.system_attrs[names.ATTR_REASON], trial.system_attrs[names.ATTR_MESSAGE]


def test_parameters_go_in_and_metrics_come_out(
    make_command: MakeStudy, start_worker: StartWorker, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(
        f"""
import json, os, sys
names = [{names.ENV_PARAMS!r}, {names.ENV_TRIAL_NUMBER!r}, "RATE"]
seen = {{"args": sys.argv[1:], "env": [os.environ[name] for name in names]}}
with open("seen", "a") as file:
    print(json.dumps(seen), file=file)
params = json.loads(os.environ[{names.ENV_PARAMS!r}])
print("starting")
print(json.dumps({{"value0": params["lr"], "value1": params["depth"]}}))
print("done", file=sys.stderr)
"""
    )
    point = {"lr": 0.00001, "depth": 3, "kind": True}
    study = make_command(
        [sys.executable, "program.py", "--lr=$(lr)", "$(depth)/$(kind)", "$$(lr)"],
        command={"env": {"RATE": "$(lr)%"}},
        searchSpace=SPACE,
        enqueue=[point, {"kind": "a b"}, {"kind": None}],
        objectives=2,
        trials=3,
    )

    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OK
    trials = study.trials
    assert [trial.values for trial in trials] == [
        [trial.params["lr"], trial.params["depth"]] for trial in trials
    ]
    assert trials[0].params == point
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert seen[0]["args"] == ["--lr=1e-05", "3/true", "$(lr)"]
    assert [json.loads(one["env"][0]) for one in seen] == [trial.params for trial in trials]
    assert [one["env"][1:] for one in seen] == [
        [str(trial.number), f"{trial.params['lr']}%"] for trial in trials
    ]
    assert [one["args"][1].partition("/")[2] for one in seen] == ["true", "a b", "null"]
    assert worker.line() == "starting"
    assert json.loads(worker.line()) == {"value0": 1e-05, "value1": 3}
    assert worker.errors.count("done\n") == 3


def script(file: Path, text: str) -> None:
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def test_a_program_runs_in_the_manifests_folder(
    make_command: MakeStudy, start_worker: StartWorker, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    script(folder / "train", "echo value=1; pwd >&2")
    study = make_command(["./train"], command={"metrics": {"value0": {"regex": "value=(.+)"}}})
    study.manifest = study.manifest.rename(folder / study.manifest.name)

    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OK
    assert study.trials[0].value == 1.0
    assert f"{folder}\n" in worker.errors


def test_a_program_is_found_in_the_path_of_its_environment(
    make_command: MakeStudy, start_worker: StartWorker, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin" / "train", """echo "{\\"value0\\": $1}" """)
    study = make_command(["train", "$(x)"], command={"env": {"PATH": f"{tmp_path}/bin:/bin"}})

    assert start_worker(study).wait() == errors.EXIT_OK
    assert study.trials[0].value == study.trials[0].params["x"]


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("no-such-program", "found no program 'no-such-program' in PATH, /bin"),
        (
            "train.sh",
            "found no program 'train.sh' in PATH, /bin; for the file {folder}/train.sh write "
            "'./train.sh'",
        ),
        ("./other.sh", "found './other.sh', but there is no file {folder}/other.sh"),
        ("./train.sh", "found './train.sh', but {folder}/train.sh is not executable"),
    ],
)
def test_a_program_that_is_not_there_is_told_once(
    make_command: MakeStudy, start_worker: StartWorker, tmp_path: Path, program: str, told: str
) -> None:
    (tmp_path / "train.sh").touch(mode=0o600)
    study = make_command([program], trials=3)

    worker = start_worker(study, PATH="/bin")

    assert worker.wait() == errors.EXIT_OBJECTIVE
    told = told.format(folder=tmp_path)
    assert worker.errors == f"spec.objective.command.args: {told}\n"
    assert study.trials == []


def test_a_program_that_a_parameter_names(
    make_command: MakeStudy, start_worker: StartWorker, tmp_path: Path
) -> None:
    script(tmp_path / "svm", """echo '{"value0": 1}'""")
    study = make_command(
        ["./$(kind)"],
        searchSpace={"kind": {"categorical": ["svm", "forest"]}},
        enqueue=[{"kind": "svm"}, {"kind": "forest"}],
        trials=2,
    )

    assert start_worker(study).wait() == errors.EXIT_OK
    complete, failed = study.trials
    assert complete.value == 1.0
    assert failure(failed) == (
        names.REASON_OBJECTIVE_RAISED,
        "./forest can't be started: No such file or directory",
    )


def test_how_a_program_failed(make_command: MakeStudy, start_worker: StartWorker) -> None:
    study = make_command(
        [
            *("sh", "-c", 'echo begin >&2; echo "no memory for $1" >&2; echo >&2; eval "$2"'),
            *("sh", "$(n)", "$(ending)"),
        ],
        searchSpace={
            "n": {"int": {"low": 1, "high": 9}},
            "ending": {"categorical": ["exit 3", "kill -SEGV $$", """echo '{"value0": "low"}'"""]},
        },
        enqueue=[
            {"n": 7, "ending": "exit 3"},
            {"n": 8, "ending": "kill -SEGV $$"},
            {"n": 9, "ending": """echo '{"value0": "low"}'"""},
        ],
        trials=3,
    )

    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OK
    assert [failure(trial) for trial in study.trials] == [
        (names.REASON_CRASHED, "the program ended with exit code 3: no memory for 7"),
        (names.REASON_CRASHED, "the program was killed by SIGSEGV: no memory for 8"),
        (
            names.REASON_OBJECTIVE_RETURNED,
            "no value for value0: found 'low', expected a number",
        ),
    ]
    first, _, last = study.trials
    assert first.system_attrs[names.ATTR_TRACEBACK] == "begin\nno memory for 7"
    assert names.ATTR_TRACEBACK not in last.system_attrs
    assert "trial 0 failed: the program ended with exit code 3: no memory for 7\n" in worker.errors


ENDLESS = """
exec 9>running
trap "" TERM
echo $$$$ >&9
sleep 1000 &
sleep 1000
"""


def test_a_program_beyond_its_time_limit_is_ended_with_all_that_it_started(
    make_command: MakeStudy, start_worker: StartWorker, running: Callable[[], bytes]
) -> None:
    study = make_command(["sh", "-c", ENDLESS], trial_timeout="300ms")

    worker = start_worker(study)

    assert running()
    assert worker.wait() == errors.EXIT_OK
    (trial,) = study.trials
    assert failure(trial) == (
        names.REASON_TRIAL_TIMEOUT,
        "not done after its time limit of 0.3 s",
    )
    assert names.ATTR_TRACEBACK not in trial.system_attrs
    assert running() == b""


def test_a_program_is_ended_when_its_trial_is_handed_back(
    make_command: MakeStudy, start_worker: StartWorker, running: Callable[[], bytes]
) -> None:
    study = make_command(["sh", "-c", ENDLESS])
    worker = start_worker(study, "--grace", "0.1")
    assert running()
    worker.terminate()

    assert worker.wait() == errors.EXIT_DRAINED
    assert study.summary.counts.waiting == 1
    assert running() == b""


def test_a_program_may_finish_within_the_grace(
    make_command: MakeStudy, start_worker: StartWorker, running: Callable[[], bytes]
) -> None:
    program = """exec 9>running; echo >&9; read -r line < gate; echo '{"value0": 1}'"""
    study = make_command(["sh", "-c", program], trials=2)
    gate = study.manifest.parent / "gate"
    os.mkfifo(gate)
    worker = start_worker(study)
    assert running()
    worker.terminate()
    worker.until_logged("finishing the running trial")
    gate.write_text("open\n")

    assert worker.wait() == errors.EXIT_DRAINED
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]


def test_a_program_that_is_ended_together_with_its_worker_is_no_failure(
    make_command: MakeStudy, start_worker: StartWorker, running: Callable[[], bytes]
) -> None:
    study = make_command(["sh", "-c", "exec 9>running; echo $$$$ >&9; exec sleep 1000"])
    worker = start_worker(study)
    program = int(running())
    worker.terminate()
    worker.until_logged("finishing the running trial")
    os.kill(program, signal.SIGTERM)

    assert worker.wait() == errors.EXIT_DRAINED
    assert study.summary.counts.waiting == 1


def test_a_program_does_not_outlive_its_worker(
    make_command: MakeStudy, start_worker: StartWorker, running: Callable[[], bytes]
) -> None:
    study = make_command(["sh", "-c", ENDLESS])
    worker = start_worker(study)
    assert running()
    worker.popen.kill()

    assert worker.wait() == -signal.SIGKILL
    assert running() == b""


WRITES = {"metrics": {"value0": {"file": "metrics.json"}}}
WRITE = """echo "{\\"value0\\": $1}" > "$2/metrics.json" """


def test_metrics_in_the_checkpoint_folder(
    make_command: MakeStudy, start_worker: StartWorker, tmp_path: Path
) -> None:
    study = make_command(
        ["sh", "-c", WRITE.replace("$2", f"${names.ENV_CHECKPOINT_DIR}"), "sh", "$(x)"],
        command=WRITES,
        trials=6,
    )
    root = ("--checkpoint-root", str(tmp_path / "checkpoints"))

    workers = [start_worker(study, *root) for _ in range(2)]

    assert [worker.wait() for worker in workers] == [errors.EXIT_OK] * 2
    assert [trial.value for trial in study.trials] == [trial.params["x"] for trial in study.trials]


def test_metrics_in_a_folder_that_workers_share(
    make_command: MakeStudy, start_worker: StartWorker, running: Callable[[], bytes]
) -> None:
    waits = "if mkdir first; then exec 9>running; echo >&9; read -r line < gate; fi"
    study = make_command(
        ["sh", "-c", f"{WRITE}; {waits}", "sh", "$(x)", "."], command=WRITES, trials=3
    )
    gate = study.manifest.parent / "gate"
    os.mkfifo(gate)
    first = start_worker(study)
    assert running()
    second = start_worker(study)
    second.until_logged("trial 2 failed")
    gate.write_text("open\n")

    assert [first.wait(), second.wait()] == [errors.EXIT_OK] * 2
    folder = study.manifest.parent
    assert [failure(trial)[1] for trial in study.trials[1:]] == [
        f"no value for value0: {folder}/metrics.json may be another trial's, because several "
        "workers run there; accepted: metrics.json in the folder $TRIALFLEET_CHECKPOINT_DIR, "
        "or parallelism 1"
    ] * 2


def test_arguments_may_name_the_documented_variables(
    make_command: MakeStudy, start_worker: StartWorker, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(
        """
import json, os, pathlib, sys
folder, number, origin, params, own = sys.argv[1:]
assert own == os.environ["OWN"] == f"trial {number}"
assert number == origin == os.environ["TRIALFLEET_TRIAL_NUMBER"]
assert params == os.environ["TRIALFLEET_PARAMS"]
pathlib.Path(folder).mkdir()
pathlib.Path(folder, "metrics.json").write_text(json.dumps({"value0": json.loads(params)["x"]}))
"""
    )
    study = make_command(
        [
            *(sys.executable, "program.py", "$(TRIALFLEET_CHECKPOINT_DIR)/out"),
            *("$(TRIALFLEET_TRIAL_NUMBER)", "$(TRIALFLEET_TRIAL_ORIGIN)", "$(TRIALFLEET_PARAMS)"),
            "trial $(TRIALFLEET_TRIAL_NUMBER)",
        ],
        command={
            "env": {"OWN": "trial $(TRIALFLEET_TRIAL_NUMBER)"},
            "metrics": {"value0": {"file": "out/metrics.json"}},
        },
        trials=2,
    )

    worker = start_worker(study, "--checkpoint-root", str(tmp_path / "checkpoints"))

    assert worker.wait() == errors.EXIT_OK, worker.errors
    assert [trial.values for trial in study.trials] == [[t.params["x"]] for t in study.trials]


def test_a_checkpoint_folder_that_is_not_there_fails_the_trial(
    make_command: MakeStudy, start_worker: StartWorker
) -> None:
    study = make_command(["true", "$(TRIALFLEET_CHECKPOINT_DIR)"], trials=1)

    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OK
    assert failure(study.trials[0]) == (
        names.REASON_OBJECTIVE_RAISED,
        "$(TRIALFLEET_CHECKPOINT_DIR) has no value: this worker has no checkpoint folder",
    )
