"""What ``trialfleet worker`` says before it runs a trial."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState

from tests.client.proxies import Proxy
from tests.worker.fleet import Study, Worker, source
from trialfleet import names
from trialfleet.model import errors

MakeStudy = Callable[..., Study]
StartWorker = Callable[..., Worker]


def test_an_objective_that_can_t_be_imported_is_told_once(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    study = make_study(source("import no_such_package\ndef objective(trial): return 1"), trials=10)

    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_OBJECTIVE
    assert worker.errors.splitlines()[:4] == [
        "Traceback (most recent call last):",
        '  File "objective.py", line 1, in <module>',
        "    import no_such_package",
        "ModuleNotFoundError: No module named 'no_such_package'",
    ]
    assert worker.errors.endswith(
        "the objective's source can't be loaded: ModuleNotFoundError: No module named "
        "'no_such_package' (objective.py:1)\n"
    )
    assert len(worker.errors.splitlines()) == 5
    assert study.trials == []


def test_a_study_by_name_with_an_objective(
    make_study: MakeStudy, start_worker: StartWorker, tmp_path: Path
) -> None:
    study = make_study(source("def objective(trial): return 1"))
    (tmp_path / "train.py").write_text("def objective(trial): return trial.suggest_int('n', 5, 5)")

    worker = start_worker(None, "--objective", "train.py", **{names.ENV_STUDY: study.name})

    assert worker.wait() == errors.EXIT_OK
    assert [trial.value for trial in study.trials] == [5.0]


def test_the_next_proxy_is_taken_if_the_nearest_is_away(
    make_study: MakeStudy, start_worker: StartWorker, proxy: Proxy
) -> None:
    study = make_study(source("def objective(trial): return 1"))

    worker = start_worker(study, address=f"127.0.0.1:1,{proxy.address}")

    assert worker.wait() == errors.EXIT_OK


def test_one_of_several_studies_in_a_manifest(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    one, other = (make_study(source(f"def objective(trial): return {value}")) for value in (1, 2))
    one.manifest.write_text(f"{one.manifest.read_text()}\n---\n{other.manifest.read_text()}")

    ambiguous = start_worker(one)
    assert ambiguous.wait() == errors.EXIT_INVALID
    assert (
        f"found 2 Studies ({one.name}, {other.name}); a worker runs one: name it with --name"
        in ambiguous.errors
    )
    assert start_worker(one, "--name", other.name).wait() == errors.EXIT_OK
    assert [trial.value for trial in other.trials] == [2.0]
    assert one.trials == []


def test_source_from_a_config_map_of_the_same_file(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    study = make_study({"python": {"configMap": {"name": "code", "key": "train.py"}}})
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "code"},
        "data": {"train.py": "def objective(trial): return 3"},
    }
    missing = start_worker(study)
    assert missing.wait() == errors.EXIT_INVALID
    assert "found no ConfigMap 'code' with a key 'train.py'" in missing.errors

    study.manifest.write_text(f"{study.manifest.read_text()}\n---\n{yaml.safe_dump(config_map)}")
    assert start_worker(study).wait() == errors.EXIT_OK
    assert study.trials[0].value == 3.0


def test_a_kind_of_objective_that_no_worker_runs(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    template = {"apiVersion": "batch/v1", "kind": "Job", "spec": {}}
    study = make_study(
        {"job": {"template": template}},
        searchSpace={"x": {"float": {"low": 0.0, "high": 1.0}}},
    )

    worker = start_worker(study)

    assert worker.wait() == errors.EXIT_INVALID
    assert worker.errors.splitlines()[-1].endswith(
        "spec.objective.job: found a kind that no worker runs, accepted: python or command"
    )
    assert study.trials == []


def test_a_study_that_is_not_there(start_worker: StartWorker, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("def objective(trial): return 1")

    worker = start_worker(None, "--study", "no-such-study", "--objective", "train.py")

    assert worker.wait() == errors.EXIT_FAILED
    assert "no-such-study" in worker.errors
    assert "Traceback" not in worker.errors


def test_a_checkpoint_folder_that_can_t_be_made(
    make_study: MakeStudy, start_worker: StartWorker, tmp_path: Path
) -> None:
    study = make_study(source("def objective(trial): return 1"))
    (tmp_path / "file").touch()

    worker = start_worker(study, "--checkpoint-root", str(tmp_path / "file"))

    assert worker.wait() == errors.EXIT_INVALID
    folder = tmp_path / "file" / study.name
    assert f"the checkpoint folder {folder} can't be made: Not a directory" in worker.errors
    assert study.trials == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (),
            "study: found none, accepted: a manifest by --study, or a name by --study or the "
            "environment variable TRIALFLEET_STUDY",
        ),
        (
            ("--study", "digits", "--proxy", ""),
            "proxy: found none, accepted: HOST:PORT[,HOST:PORT...] by --proxy or by the "
            "environment variable TRIALFLEET_PROXY",
        ),
        (
            ("--study", "digits"),
            "--study: found the name 'digits' without an objective; accepted: a manifest, or a "
            "name with --objective FILE.py or package.module:function",
        ),
        (("--study", "missing.yaml"), "missing.yaml: No such file or directory"),
    ],
)
def test_what_is_missing_is_told_in_one_line(
    start_worker: StartWorker, arguments: tuple[str, ...], message: str
) -> None:
    worker = start_worker(None, *arguments)

    assert worker.wait() == errors.EXIT_INVALID
    (line,) = worker.errors.splitlines()
    assert line.endswith(message)


def test_every_trial_is_logged_at_the_level_debug(
    make_study: MakeStudy, start_worker: StartWorker
) -> None:
    study = make_study(source("def objective(trial): return 0.25"), trials=2)

    worker = start_worker(study, "--log-level", "debug")

    assert worker.wait() == errors.EXIT_OK
    assert "DEBUG trial 1 complete: 0.25, 0." in worker.errors
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
