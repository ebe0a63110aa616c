"""What a user may type, or a file may hold, ends in one line that says what is wrong."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.security.test_local_run import STUDY
from trialfleet import names

_NO_UTF8 = os.fsdecode(b"\xff\xfe")
_STEPS = "  searchSpace: {x: {float: {low: 0, high: 1, step: 1e-300}}}\n  objective:"
_ALIASES = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)
)


def run(
    *arguments: str, folder: Path, output: int = subprocess.PIPE
) -> "subprocess.CompletedProcess[str]":
    environment = {key: text for key, text in os.environ.items() if key != names.ENV_STORAGE_URL}
    return subprocess.run(
        [sys.executable, "-m", "trialfleet.cli.main", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def test_one_line_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "step.yaml").write_text(STUDY.replace("  objective:", _STEPS, 1))
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 100_000 + "]" * 100_000)
    (tmp_path / "aliases.yaml").write_text(_ALIASES)
    (tmp_path / "key").write_text("k" * 32)
    (tmp_path / "url").write_text("postgresql://user:secret@host:port/database\n")
    cases = {
        ("best", "--storage", "postgresql://user:secret@host:port/database"): "--storage: found a",
        ("best", "--storage", "@url"): "--storage: found a port that is no number",
        ("run", "study.yaml", "--storage", "@none"): "--storage @none: No such file",
        ("token", _NO_UTF8, "--key", "key"): "STUDY: found bytes that are no UTF-8",
        ("run", "study.yaml", "--data", _NO_UTF8): "found bytes that are no UTF-8",
        ("validate", "step.yaml"): "found step 1e-300",
        ("validate", "deep.yaml"): "found more than 100 levels",
        ("validate", "aliases.yaml"): "found more than 200000 values",
    }
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda case: run(*case, folder=tmp_path), cases))
    for (case, expected), result in zip(cases.items(), done, strict=True):
        assert result.returncode == 2, (case, result.stderr)
        assert result.stderr.count("\n") == 1, (case, result.stderr)
        assert expected in result.stderr, case
        assert "secret" not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_an_output_that_is_full(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = run("--help", folder=tmp_path, output=full.fileno())
    assert (done.returncode, done.stderr) == (1, "standard output: No space left on device\n")


def test_the_url_of_a_database_may_be_in_a_file(tmp_path: Path, database_url: str) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "url").write_text(f"{database_url}\n")
    done = run("run", "study.yaml", "--storage", "@url", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 trials" in done.stdout + done.stderr
