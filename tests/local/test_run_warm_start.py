"""``spec.warmStart`` on one machine."""

from pathlib import Path

from tests.local.running import run, write_study


def test_a_study_begins_with_the_trials_of_another(folder: Path) -> None:
    write_study(folder, "def objective(trial): return trial.suggest_float('x', 0, 1)", trials=5)
    assert run(["run", "study.yaml"], folder).returncode == 0
    manifest = (folder / "study.yaml").read_text().replace("name: test", "name: next")
    warm = manifest.replace("spec:\n", "spec:\n  warmStart: [{study: test}]\n")
    (folder / "next.yaml").write_text(warm)

    done = run(["run", "next.yaml"], folder)

    assert done.returncode == 0, done.stderr
    assert "begins with 5 finished trials of other studies" in done.stderr
    assert "next: 5 of 5 trials (5 complete)" in done.stdout
    (folder / "next.yaml").write_text(warm.replace("study: test", "study: none"))
    other = run(["run", "next.yaml", "--data", "fresh"], folder)
    assert other.returncode == 2
    assert other.stderr.splitlines()[-1].startswith("warmStart[0].study: found 'none', which")
