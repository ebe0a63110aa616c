"""Packages for an objective, by the real pip, from wheels that the tests write."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import pytest

from tests.wheels import environment, write_wheel
from trialfleet.model.errors import InvalidInput, TrialfleetError
from trialfleet.worker import packages
from trialfleet.worker.packages import Wanted


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all that pip looks at."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name, text in environment(folder).items():
        monkeypatch.setenv(name, text)
    return folder


def wanted(*requirements: str, file: str | None = None) -> Wanted:
    return Wanted(requirements, file)


def imported(folder: Path, expression: str) -> str:
    """What a Python with the folder in PYTHONPATH makes of an expression."""
    done = subprocess.run(
        [sys.executable, "-c", f"import tfa; print({expression})"],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_installs_what_is_missing_and_nothing_that_is_there(wheels: Path, tmp_path: Path) -> None:
    write_wheel(wheels, "tfa", "1.2", requires=["tfb>=1", "numpy"])
    write_wheel(wheels, "tfb", "1.0")
    write_wheel(wheels, "tfa", "2.0")
    folder = packages.install(wanted("tfa==1.*"), tmp_path / "cache")
    found = {one.name for one in folder.glob("*.dist-info")}
    assert found == {"tfa-1.2.dist-info", "tfb-1.0.dist-info"}
    assert imported(folder, "tfa.VERSION") == "1.2"


def test_a_second_time_the_cache_has_it(wheels: Path, tmp_path: Path) -> None:
    write_wheel(wheels, "tfa", "1.0")
    runs: list[Sequence[str]] = []

    def counted(
        arguments: Sequence[str], environment: Mapping[str, str]
    ) -> tuple[int, Sequence[str]]:
        runs.append(arguments)
        return packages.run(arguments, environment)

    first = packages.install(wanted("tfa"), tmp_path, run=counted)
    count = len(runs)
    assert count
    assert packages.install(wanted("tfa"), tmp_path, run=counted) == first
    assert len(runs) == count
    assert packages.install(wanted("tfa==1.0"), tmp_path, run=counted) != first


def test_another_version_than_the_one_that_is_there_comes_first(
    wheels: Path, tmp_path: Path
) -> None:
    # Something that is installed here, and that Trialfleet does not need.
    name = "hypothesis"
    assert name not in packages.needed_versions()
    before = metadata.version(name)
    write_wheel(wheels, name, "0.1")
    write_wheel(wheels, "tfa", "1.0", source="import hypothesis")
    folder = packages.install(wanted("tfa", "hypothesis==0.1"), tmp_path / "cache")
    assert imported(folder, "tfa.hypothesis.VERSION") == "0.1"
    assert metadata.version(name) == before


def test_what_trialfleet_needs_keeps_its_version(wheels: Path, tmp_path: Path) -> None:
    version = metadata.version("numpy")
    with pytest.raises(InvalidInput) as caught:
        packages.install(wanted("tfa", "NumPy<1", "optuna"), tmp_path)
    assert str(caught.value) == (
        "spec.objective.python.packages[1]: found 'NumPy<1', but Trialfleet runs with "
        f"NumPy {version} here; accepted: a requirement that {version} meets"
    )
    write_wheel(wheels, "numpy", "99.0")
    folder = packages.install(wanted("numpy"), tmp_path)
    assert list(folder.iterdir()) == []


def test_a_conflict_of_a_dependency_is_told_in_one_line(wheels: Path, tmp_path: Path) -> None:
    version = metadata.version("numpy")
    write_wheel(wheels, "tfa", "1.0", requires=["numpy<1"])
    write_wheel(wheels, "numpy", "0.9")
    with pytest.raises(InvalidInput) as caught:
        packages.install(wanted("tfa"), tmp_path)
    text = str(caught.value)
    assert text.startswith("spec.objective.python.packages: can't be installed: ")
    assert f"tfa 1.0 depends on numpy<1; Trialfleet runs with numpy=={version}" in text
    assert "\n" not in text
    assert list(tmp_path.glob("*.unfinished")) == []


def test_a_package_that_is_not_there_is_told(wheels: Path, tmp_path: Path) -> None:
    with pytest.raises(TrialfleetError) as caught:
        packages.install(wanted("tfa"), tmp_path)
    assert not isinstance(caught.value, InvalidInput)
    assert str(caught.value) == (
        "spec.objective.python.packages: can't be installed: Could not find a version that "
        "satisfies the requirement tfa (from versions: none); No matching distribution found "
        "for tfa"
    )


def test_a_requirements_file_with_options(wheels: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    write_wheel(more, "tfa", "3.0")
    file = f"# what it is for\n--find-links {more}\n\ntfa == 3.0  # the last one\n"
    folder = packages.install(wanted(file=file), tmp_path / "cache")
    assert imported(folder, "tfa.VERSION") == "3.0"
    with pytest.raises(InvalidInput, match=r"^spec\.objective\.python\.requirements: line 2: "):
        packages.install(wanted(file="tfa\noptuna<1\n"), tmp_path / "cache")


def test_of_two_at_once_one_installs(wheels: Path, tmp_path: Path) -> None:
    write_wheel(wheels, "tfa", "1.0")
    begun: list[str] = []
    found: list[Path] = []

    def install() -> None:
        found.append(
            packages.install(wanted("tfa"), tmp_path, on_begin=lambda: begun.append("begun"))
        )

    threads = [threading.Thread(target=install) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert begun == ["begun"]
    assert found[0] == found[1]


def test_what_a_killed_one_left_is_removed(wheels: Path, tmp_path: Path) -> None:
    write_wheel(wheels, "tfa", "1.0")
    left = tmp_path / f"{wanted('tfa').digest}.x.unfinished"
    (left / "packages").mkdir(parents=True)
    folder = packages.install(wanted("tfa"), tmp_path)
    assert not left.exists()
    assert (folder / "tfa.py").exists()


def test_the_command_of_a_pod(wheels: Path, tmp_path: Path) -> None:
    write_wheel(wheels, "tfa", "1.0")
    manifest = {
        "apiVersion": "trialfleet.dev/v1alpha1",
        "kind": "Study",
        "metadata": {"name": "one"},
        "spec": {
            "objectives": [{"name": "a", "direction": "minimize"}],
            "budget": {"trials": 1},
            "objective": {"python": {"callable": "a:b", "packages": ["tfa"]}},
        },
    }
    file, link = tmp_path / "study.json", tmp_path / "link"
    file.write_text(json.dumps(manifest))
    command = [
        *(sys.executable, "-m", "trialfleet.cli.main", "packages", f"--study={file}"),
        *(f"--cache={tmp_path / 'cache'}", f"--link={link}"),
    ]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert imported(link, "tfa.VERSION") == "1.0"
    manifest["spec"]["objective"]["python"]["packages"] = ["optuna<1"]  # type: ignore[index]
    file.write_text(json.dumps(manifest))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("spec.objective.python.packages[0]: found 'optuna<1', ")
