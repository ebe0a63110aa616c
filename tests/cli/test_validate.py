import subprocess
import sys
from pathlib import Path

from tests.api.study_text import study, written


def trialfleet(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trialfleet.cli.main", *arguments], capture_output=True, text=True
    )


def test_good_file(tmp_path: Path) -> None:
    path = written(tmp_path, study())
    done = trialfleet("validate", path)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"{path}: Study 'digits' is valid\n",
        "",
    )


def test_all_mistakes_of_all_files_and_exit_code_2(tmp_path: Path) -> None:
    good = written(tmp_path, study())
    bad = tmp_path / "bad.yaml"
    bad.write_text(study(sampler="{name: TPESampelr}", retries="-1"))
    missing = tmp_path / "missing.yaml"
    done = trialfleet("validate", bad, good, missing)
    assert done.returncode == 2
    assert done.stdout == f"{good}: Study 'digits' is valid\n"
    assert done.stderr == (
        f"{bad}:8: spec.sampler.name: found 'TPESampelr', accepted: any class of optuna.samplers "
        "(did you mean 'TPESampler'?)\n"
        f"{bad}:9: spec.retries: found -1, accepted: an integer of at least 0 and at most 100\n"
        f"{missing}: No such file or directory\n"
    )


def test_notices_are_told_and_change_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, study(objective="{python: {file: objective.py}}"))
    done = trialfleet("validate", path)
    assert done.returncode == 0
    assert done.stderr == (
        f"{path}:7: spec.objective.python.file: read on one machine only; a cluster accepts "
        "source, configMap or callable (notice)\n"
    )


def test_wrong_usage_has_no_traceback() -> None:
    done = trialfleet("validate")
    assert done.returncode == 2
    assert "Missing argument" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_command_is_told() -> None:
    done = trialfleet("valdiate")
    assert done.returncode == 2
    assert "No such command 'valdiate'" in done.stderr


def test_help_lists_every_command() -> None:
    from trialfleet.cli.main import COMMANDS

    done = trialfleet("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert command in done.stdout


def test_a_variable_that_nothing_expands_is_told(tmp_path: Path) -> None:
    command = (
        "{command: {args: [./train, '--out=$TRIALFLEET_CHECKPOINT_DIR/out', '$HOME', '$$HOME', "
        "'$(TRIALFLEET_CHECKPOINT_DIR)'], env: {A: '${lr}'}}}"
    )
    path = written(tmp_path, study(objective=command, searchSpace="{lr: {int: {low: 1, high: 2}}}"))
    done = trialfleet("validate", path)
    assert done.returncode == 0
    as_it_is = "which is passed on as it is, because no shell runs; accepted for its value"
    where = f"{path}:7: spec.objective.command"
    assert done.stderr.splitlines() == [
        f"{where}.args: found $TRIALFLEET_CHECKPOINT_DIR, {as_it_is}: "
        "$(TRIALFLEET_CHECKPOINT_DIR) (notice)",
        f"{where}.args: found $HOME, {as_it_is}: a shell in args: [sh, -c, ...] (notice)",
        f"{where}.env: found $lr, {as_it_is}: $(lr) (notice)",
    ]


def test_a_shell_expands_its_variables(tmp_path: Path) -> None:
    command = "{command: {args: [/bin/sh, -c, 'echo $TRIALFLEET_PARAMS $x']}}"
    path = written(tmp_path, study(objective=command, searchSpace="{lr: {int: {low: 1, high: 2}}}"))
    assert trialfleet("validate", path).stderr == ""
