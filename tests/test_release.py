"""A release is a function of its commit, and the version stands in one place."""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import helm_python
import pytest
import yaml

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "tools"


def tool(*arguments: str | Path, cwd: Path = ROOT, code: int = 0) -> str:
    """Run a tool; return what it says."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of its own with what is here, committed."""
    folder = tmp_path_factory.mktemp("copy")
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")
    return folder


def test_twice_the_same_bytes(copy: Path, tmp_path: Path) -> None:
    made = []
    for name in ("first", "second"):
        # What is not committed is not released.
        (copy / "operator" / "trialfleet" / f"{name}.py").write_text("")
        tool("tools/release.py", "--output", tmp_path / name, cwd=copy)
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    first, second = made
    now = version("trialfleet")
    assert sorted(first) == [
        "SHA256SUMS",
        f"trialfleet-{now}-py3-none-any.whl",
        f"trialfleet-{now}.cdx.json",
        f"trialfleet-{now}.tar.gz",
        f"trialfleet-{now}.tgz",
        f"trialfleet-{now}.yaml",
    ]
    assert [name for name in first if first[name] != second[name]] == []
    lines = [line.split("  ") for line in first["SHA256SUMS"].decode().splitlines()]
    sums = {name: checksum for checksum, name in lines}
    assert sums == {
        name: hashlib.sha256(data).hexdigest()
        for name, data in first.items()
        if name != "SHA256SUMS"
    }
    folder = tmp_path / "first"
    with zipfile.ZipFile(folder / f"trialfleet-{now}-py3-none-any.whl") as wheel:
        names = wheel.namelist()
    assert "trialfleet/storage/migrations/0006_baseline.sql" in names
    assert "trialfleet/first.py" not in names
    with tarfile.open(folder / f"trialfleet-{now}.tar.gz") as sdist:
        assert f"trialfleet-{now}/pyproject.toml" in sdist.getnames()
    with helm_python.Chart.load_archive(first[f"trialfleet-{now}.tgz"]) as chart:
        assert (chart.name, chart.version) == ("trialfleet", now)
        assert any(path.endswith("crds.yaml") for path in chart.render({}, name="t", namespace="n"))
    manifests = list(yaml.safe_load_all(first[f"trialfleet-{now}.yaml"]))
    assert {"CustomResourceDefinition", "Deployment"} <= {found["kind"] for found in manifests}
    bill = json.loads(first[f"trialfleet-{now}.cdx.json"])
    assert (bill["bomFormat"], bill["metadata"]["component"]["version"]) == ("CycloneDX", now)
    pinned = {component["name"]: component["version"] for component in bill["components"]}
    assert {"optuna", "grpcio", "sqlalchemy"} <= pinned.keys()
    assert f"optuna=={pinned['optuna']}" in (ROOT / "requirements/runtime.txt").read_text()


def test_the_version_stands_in_one_place(copy: Path) -> None:
    assert tool("tools/version.py", "--check", cwd=copy) == ""
    chart = copy / "charts" / "trialfleet" / "Chart.yaml"
    chart.write_text(chart.read_text().replace("appVersion: ", "appVersion: 9"))
    said = tool("tools/version.py", "--check", cwd=copy, code=1)
    now = version("trialfleet")
    assert f"charts/trialfleet/Chart.yaml:6: found version 9{now}, accepted: {now}" in said
    # Another one is written wherever there is one.
    tool("tools/version.py", "7.8.9-rc.1", cwd=copy)
    assert tool("tools/version.py", "--check", cwd=copy) == ""
    changed = subprocess.check_output(["git", "diff", "--name-only"], cwd=copy, text=True).split()
    assert {"pyproject.toml", "Dockerfile", "docs/images.md"} <= set(changed)
    assert "0.1.0" in (copy / "CHANGELOG.md").read_text()
    written = yaml.safe_load(chart.read_text())
    assert written["version"] == written["appVersion"] == "7.8.9-rc.1"
    git(copy, "checkout", "-q", ".")


def test_the_command_says_the_version() -> None:
    said = tool("-m", "trialfleet.cli.main", "--version")
    assert said == f"trialfleet {version('trialfleet')}\n"
    assert f'version = "{version("trialfleet")}"' in (ROOT / "pyproject.toml").read_text()
