"""Calling the command in this process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trialfleet.cli import main as command

Call = Callable[[list[str]], tuple[int, str, str]]


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command in the folder; returns its exit code and what it says on both outputs."""
    monkeypatch.chdir(folder)

    def main(arguments: list[str]) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["trialfleet", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            command.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return main


def done(arguments: list[str], call: Call) -> str:
    """Make a call that succeeds; return what it says, on both outputs."""
    code, out, err = call(arguments)
    assert code == 0, err
    return out + err


def refused(arguments: list[str], call: Call, code: int = 2) -> str:
    """Make a call that fails with one line; return it."""
    found, out, err = call(arguments)
    assert found == code, out + err
    assert out == ""
    assert err.count("\n") == 1, err
    return err
