"""Commands that end with their test."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.local.running import Running

Start = Callable[[Sequence[str]], Running]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="tf-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start a command in the folder; it is ended with the test."""
    started: list[Running] = []

    def begin(arguments: Sequence[str]) -> Running:
        started.append(Running(arguments, folder))
        return started[-1]

    yield begin
    for running in started:
        running.close()
