"""``trialfleet run``: from a manifest to its result."""

import json
import re
from pathlib import Path

import psutil
import pytest

from tests.local.conftest import Start
from tests.local.running import processes_of, run, sockets_of, until, write_study
from trialfleet.local.postgres_keeper import postmaster

QUICK = """
def objective(trial):
    return trial.suggest_float("x", -1, 1) ** 2
"""

SLOW = """
import time

def objective(trial):
    x = trial.suggest_float("x", -1, 1)
    print("began", trial.number, flush=True)
    time.sleep(30 if trial.number >= 2 else 0.05)
    return x
"""


def test_a_study_from_its_manifest_to_its_result(folder: Path) -> None:
    write_study(folder, QUICK, trials=12, parallelism=2)
    done = run(["run", "study.yaml"], folder)
    assert done.returncode == 0, done.stderr
    assert re.match(
        r"test: 12 of 12 trials \(12 complete\) in [\d.]+ s; the budget of trials is used up\n\n"
        r"trial +loss +x +seconds\n( +\d+ +\S+ +\S+ +\S+\n){5}\n"
        r"data: \.trialfleet \(all trials: trialfleet trials test --data \.trialfleet\)\n$",
        done.stdout,
    ), done.stdout
    assert processes_of(folder) == []
    assert sockets_of(folder) == []


def test_run_again_it_goes_on_and_then_has_nothing_to_do(folder: Path) -> None:
    write_study(folder, QUICK, trials=4)
    assert run(["run", "study.yaml"], folder).returncode == 0
    more = run(["run", "study.yaml", "--trials", "7", "--output", "json"], folder)
    assert "going on after 4 finished trials" in more.stderr
    assert json.loads(more.stdout)["trials"]["complete"] == 7
    again = run(["run", "study.yaml", "--trials", "7"], folder)
    assert again.returncode == 0
    assert "test: 7 of 7 trials (7 complete)" in again.stdout


def test_trials_of_another_objective_are_not_gone_on_with_unless_that_is_said(
    folder: Path,
) -> None:
    write_study(folder, QUICK, trials=3)
    assert run(["run", "study.yaml"], folder).returncode == 0
    write_study(folder, QUICK.replace("** 2", "+ 1000"), trials=3)
    refused = run(["run", "study.yaml"], folder)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert line == (
        "metadata.name: the storage has 3 trials of a study 'test' of another objective; accepted: "
        "the same, --adopt to count them as this study's, another name to begin anew, or none: "
        "trialfleet studies --delete=test --data .trialfleet"
    )
    adopted = run(["run", "study.yaml", "--adopt", "--trials", "4"], folder)
    assert adopted.returncode == 0, adopted.stderr
    assert "test: 4 of 4 trials (4 complete)" in adopted.stdout
    again = run(["run", "study.yaml", "--trials", "5"], folder)
    assert "test: 5 of 5 trials (5 complete)" in again.stdout
    write_study(folder, QUICK, trials=3)
    deleted = run(["studies", "--delete=test", "--data", ".trialfleet"], folder)
    assert (deleted.returncode, deleted.stdout) == (0, ""), deleted.stderr
    anew = run(["run", "study.yaml"], folder)
    assert "test: 3 of 3 trials (3 complete)" in anew.stdout


def test_json_is_one_object_on_stdout(folder: Path) -> None:
    write_study(folder, QUICK, trials=3)
    done = run(["run", "study.yaml", "--output", "json"], folder)
    told = json.loads(done.stdout)
    best = told["best"][0]
    assert told | {"best": [], "seconds": 0} == {
        "study": "test",
        "ended": "TrialsComplete",
        "interrupted": False,
        "trials": {
            "complete": 3, "pruned": 0, "failed": 0, "running": 0, "waiting": 0, "lost": 0
        },
        "best": [],
        "seconds": 0,
        "data": ".trialfleet",
        "storage": None,
        "plot": None,
    }  # fmt: skip
    assert best["values"] == {"loss": pytest.approx(best["params"]["x"] ** 2)}


def test_plain_progress_is_a_few_lines(folder: Path) -> None:
    write_study(folder, QUICK, trials=30)
    done = run(["run", "study.yaml"], folder)
    lines = done.stderr.splitlines()
    assert lines[0] == "test: 0/30 trials"
    assert re.match(r"test: 30/30 trials \| best loss \S+ \(trial \d+\)", lines[-1])
    assert len(lines) <= 8, done.stderr


def test_dry_run_starts_and_writes_nothing(folder: Path) -> None:
    write_study(folder, QUICK, trials=3, parallelism=4)
    done = run(["run", "study.yaml", "--dry-run", "--data", "here"], folder)
    assert done.returncode == 0
    assert f"postgres: makes new data, in {folder / 'here' / 'postgres'}" in done.stdout
    assert "workers: 4" in done.stdout
    assert "name: RandomSampler" in done.stdout
    assert not (folder / "here").exists()
    as_json = run(["run", "study.yaml", "--dry-run", "--output", "json"], folder)
    assert json.loads(as_json.stdout)["budget"]["trials"] == 3


def test_a_failed_trial_stops_no_other_and_is_told_once(folder: Path) -> None:
    write_study(
        folder,
        """
        def objective(trial):
            if trial.number % 2:
                raise ValueError("odd numbers are bad")
            return 1.0
        """,
        trials=10,
    )
    done = run(["run", "study.yaml"], folder)
    assert done.returncode == 0
    assert "test: 10 of 10 trials (5 complete, 5 failed)" in done.stdout
    told = [line for line in done.stderr.splitlines() if "odd numbers" in line]
    message = "ValueError: odd numbers are bad (objective.py:4)"
    assert told == [
        f"trial 1 failed: {message}",
        f"5 trials failed: {message} (the first: 1)",
    ]


def test_an_objective_that_cannot_be_loaded_is_told_once(folder: Path) -> None:
    write_study(folder, "import no_such_module\n" + QUICK, parallelism=3)
    done = run(["run", "study.yaml"], folder)
    assert done.returncode == 4
    assert done.stderr.count("can't be loaded") == 1, done.stderr
    assert done.stderr.rstrip().endswith(
        "ModuleNotFoundError: No module named 'no_such_module' (objective.py:1)"
    )
    assert processes_of(folder) == []


def test_ctrl_c_hands_back_and_says_how_to_go_on(folder: Path, start: Start) -> None:
    write_study(folder, SLOW, trials=4, parallelism=2)
    running = start(["run", "study.yaml", "--data", "here"])
    running.wait_for("began 3")
    running.interrupt()
    running.wait_for("stopping: running trials get")
    running.interrupt()
    assert running.wait() == 130
    assert "test: 2 of 4 trials (2 complete, 2 waiting); stopped after" in running.text, (
        running.text
    )
    assert "go on with: trialfleet run study.yaml --data here" in running.lines
    assert processes_of(folder) == []
    assert sockets_of(folder) == []


def test_sigterm_does_what_ctrl_c_does(folder: Path, start: Start) -> None:
    write_study(folder, QUICK, trials=100_000)
    running = start(["run", "study.yaml"])
    running.wait_for("best loss")
    running.process.terminate()
    assert running.wait() == 130
    assert "stopped after" in running.text
    assert processes_of(folder) == []


def test_kill_9_of_a_worker_is_noticed_its_trial_requeued(folder: Path, start: Start) -> None:
    write_study(
        folder,
        """
        import time, pathlib

        def objective(trial):
            x = trial.suggest_float("x", -1, 1)
            print("began", trial.number, x, flush=True)
            marker = pathlib.Path("killed")
            if not marker.exists():
                marker.touch()
                trial.set_user_attr("kept", "yes")
                time.sleep(1.5)
                print("ready to be killed", flush=True)
                time.sleep(60)
            return x
        """,
        trials=3,
    )
    running = start(["run", "study.yaml"])
    first = running.wait_for(r"began 0 (\S+)")[1]
    running.wait_for("ready to be killed")
    (worker,) = running.workers()
    worker.kill()
    running.wait_for(
        r"was killed by SIGKILL; trial 0 is lost; it runs again as trial 1", timeout_s=2
    )
    assert running.wait_for(r"began 1 (\S+)")[1] == first
    assert running.wait() == 0
    assert "3 of 3 trials (3 complete, 1 lost and retried)" in running.text
    trials = json.loads(run(["trials", "--output", "json"], folder).stdout)
    assert [trial["state"] for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert trials[1]["user_attrs"] == {"kept": "yes"}
    assert trials[0]["system_attrs"]["trialfleet:reason"] == "KilledBySignal"


def test_kill_9_of_the_run_leaves_nothing_behind(folder: Path, start: Start) -> None:
    write_study(
        folder,
        """
        import subprocess, time

        def objective(trial):
            child = subprocess.Popen(["sleep", "300"])
            print("began", trial.number, flush=True)
            time.sleep(300)
        """,
        trials=4,
        parallelism=2,
    )
    running = start(["run", "study.yaml"])
    running.wait_for("began 1")
    children = psutil.Process(running.process.pid).children(recursive=True)
    assert [child for child in children if child.name() == "sleep"]
    running.process.kill()
    until(lambda: None if processes_of(folder) else True, timeout_s=20)
    assert sockets_of(folder) == []
    trials = json.loads(run(["trials", "--output", "json"], folder).stdout)
    assert [trial["state"] for trial in trials] == ["WAITING", "WAITING"]


def test_an_objective_that_ends_its_process_has_failed(folder: Path) -> None:
    write_study(
        folder,
        """
        import os, signal

        def objective(trial):
            if trial.number == 1:
                os.kill(os.getpid(), signal.SIGSEGV)
            if trial.number == 3:
                os._exit(7)
            if trial.number == 5:
                os._exit(0)
            return 1.0
        """,
        trials=7,
    )
    done = run(["run", "study.yaml"], folder)
    assert done.returncode == 0, done.stderr
    assert "7 of 7 trials (4 complete, 3 failed)" in done.stdout
    told = re.findall(r"-0: the objective (.*)", done.stderr)
    assert told == [
        "crashed its process with SIGSEGV; trial 1 failed",
        "ended its process with exit code 7; trial 3 failed",
        "ended its process with exit code 0; trial 5 failed",
    ]
    failed = json.loads(run(["trials", "--state", "fail", "--output", "json"], folder).stdout)
    assert {trial["system_attrs"]["trialfleet:reason"] for trial in failed} == {"Crashed"}


def test_workers_that_only_crash_end_the_run(folder: Path) -> None:
    write_study(
        folder,
        """
        import os

        def objective(trial):
            os.abort()
        """,
        trials=1000,
        parallelism=2,
    )
    done = run(["run", "study.yaml"], folder)
    assert done.returncode == 1
    assert re.fullmatch(
        r"10 workers in a row have died and no trial has finished in between; the last one: "
        r"the objective crashed its process with SIGABRT",
        done.stderr.splitlines()[-1],
    ), done.stderr
    assert processes_of(folder) == []


def test_proxy_and_postgres_are_replaced(folder: Path, start: Start) -> None:
    write_study(
        folder,
        """
        import time

        def objective(trial):
            time.sleep(0.3)
            return 1.0
        """,
        trials=15,
    )
    running = start(["run", "study.yaml"])
    running.wait_for("best loss")
    (proxy,) = (
        child
        for child in psutil.Process(running.process.pid).children()
        if "proxy" in child.cmdline()
    )
    proxy.kill()
    running.wait_for("the proxy ended with code -9; starting it again")
    pid = until(lambda: postmaster(folder / ".trialfleet" / "postgres"))
    server = psutil.Process(pid)
    keeper = server.parent()
    assert keeper is not None
    keeper.kill()
    server.kill()
    assert running.wait() == 0
    assert "15 of 15 trials (15 complete)" in running.text


def test_the_sampler_may_end_the_study(folder: Path) -> None:
    manifest = write_study(
        folder,
        """
        def objective(trial):
            return trial.suggest_int("x", 1, 4)
        """,
        trials=100,
        parallelism=2,
    )
    grid = "{name: GridSampler, options: {search_space: {x: [1, 2, 3, 4]}}}"
    manifest.write_text(
        manifest.read_text().replace("{name: RandomSampler, options: {seed: 1}}", grid)
    )
    done = run(["run", "study.yaml"], folder)
    assert done.returncode == 0, done.stderr
    assert "the sampler or the objective has stopped it" in done.stdout


def test_a_worker_that_is_only_starting_does_not_hold_the_end_up(folder: Path) -> None:
    write_study(
        folder,
        """
        import os, time
        from pathlib import Path

        try:
            os.mkdir("first")
        except FileExistsError:
            Path("second").touch()
            time.sleep(10_000)  # as a long import would

        def objective(trial):
            while not Path("second").exists():
                time.sleep(0.01)
            trial.study.stop()
            return trial.suggest_float("x", 0, 1)
        """,
        trials=100,
        parallelism=2,
    )
    done = run(["run", "study.yaml"], folder)
    assert done.returncode == 0, done.stderr
    assert "test: 1 of 100 trials (1 complete)" in done.stdout
    assert [line for line in done.stderr.splitlines() if not line.startswith("test: ")] == []


def test_what_only_a_cluster_has_is_told_by_what_it_changes(folder: Path) -> None:
    manifest = write_study(
        folder,
        """
        import os

        def objective(trial):
            return float(os.environ["FROM_MANIFEST"])
        """,
        trials=1,
    )
    with manifest.open("a") as file:
        file.write(
            "  ttlSecondsAfterFinished: 60\n"
            "  storage: {name: shared}\n"
            "  template:\n"
            "    spec:\n"
            "      containers:\n"
            "        - name: worker\n"
            "          image: example/image\n"
            "          resources: {limits: {memory: 1Gi}}\n"
            "          env:\n"
            '            - {name: FROM_MANIFEST, value: "42"}\n'
            "            - name: SECRET\n"
            "              valueFrom: {secretKeyRef: {name: s, key: k}}\n"
        )
    done = run(["run", "study.yaml", "--output", "json"], folder)
    notices = [line for line in done.stderr.splitlines() if line.startswith("notice")]
    assert notices == [
        "notice: spec.template.spec.containers[worker].image: the programs and packages of this "
        "machine are used, not those of example/image",
        "notice: spec.template.spec.containers[worker].resources.limits: no limit of memory on one "
        "machine",
        "notice: spec.template.spec.containers[worker].env: SECRET not set: what it refers to is "
        "in the cluster; a variable of the same name that is set here is taken",
        "notice: spec.storage.name: not 'shared' but this machine keeps the trials, or the "
        "database of --storage",
        "notice: spec.ttlSecondsAfterFinished: the study stays: on one machine nothing deletes it",
    ]
    assert json.loads(done.stdout)["best"][0]["values"] == {"loss": 42.0}


def test_two_studies_share_a_data_folder(folder: Path, start: Start) -> None:
    manifest = write_study(folder, SLOW.replace("30", "2"), trials=4)
    (folder / "other.yaml").write_text(manifest.read_text().replace("name: test", "name: other"))
    first, second = start(["run", "study.yaml"]), start(["run", "other.yaml"])
    first.wait_for("began 2")
    listed = run(["studies", "--output", "json"], folder)
    assert "test" in {study["name"] for study in json.loads(listed.stdout)}
    assert first.wait() == 0, first.text
    assert second.wait() == 0, second.text
    assert processes_of(folder) == []
    table = run(["studies"], folder).stdout
    assert re.search(r"^test +minimize loss +0 +4 ", table, re.MULTILINE), table
    assert re.search(r"^other +minimize loss +0 +4 ", table, re.MULTILINE), table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.yaml"], "none.yaml: No such file or directory"),
        (["run", "study.yaml", "--plot", "a.xyz"], "--plot: found a.xyz, accepted: a file that"),
        (["run", "study.yaml", "--plot", "no/a.png"], "but the folder no does not exist"),
        (["run", "study.yaml", "--storage", "mysql://host/db"], "mysql"),
        (["best"], "--data .trialfleet: no data of 'trialfleet run', accepted: a folder"),
        (["trials", "--storage", "sqlite:///x.db"], "--storage: found a sqlite database, accep"),
    ],
)
def test_input_that_cannot_be_used(folder: Path, arguments: list[str], message: str) -> None:
    write_study(folder, QUICK)
    done = run(arguments, folder)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
