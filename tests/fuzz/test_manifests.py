"""Whatever a manifest says: it is taken, or each mistake is told in a line of its own, soon."""

import time
from pathlib import Path
from typing import Final

import pytest
import yaml
from hypothesis import given

from tests.fuzz.effort import Effort
from tests.fuzz.objects import objects, texts
from trialfleet.api import manifest
from trialfleet.model.errors import InvalidInput

MOST_S: Final = 5.0
"""A hundred times what any of them takes on a quiet machine."""
KEPT: Final = sorted((Path(__file__).parent / "manifests").glob("*.yaml"))
"""What once was answered with a traceback, or with what is no line."""


def read(path: Path) -> None:
    """Read a manifest; assert that whatever is wrong is told."""
    began = time.thread_time()
    try:
        found = manifest.read(path)
    except InvalidInput as error:
        lines = str(error).split("\n")
        assert all(line.startswith(f"{path}:") for line in lines)
        assert all(line.isprintable() for line in lines), lines
    else:
        assert found.resources
    assert time.thread_time() - began < MOST_S


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept.stem)
def test_what_once_was_answered_badly(kept: Path) -> None:
    with pytest.raises(InvalidInput):
        manifest.read(kept)
    read(kept)


def test_any_object(tmp_path: Path, effort: Effort) -> None:
    path = tmp_path / "study.yaml"

    @given(content=objects())
    def check(content: object) -> None:
        path.write_text(yaml.safe_dump(content, allow_unicode=True))
        read(path)

    effort.fuzz(check, 200)


def test_any_text(tmp_path: Path, effort: Effort) -> None:
    path = tmp_path / "study.yaml"

    @given(content=texts())
    def check(content: bytes) -> None:
        path.write_bytes(content)
        read(path)

    effort.fuzz(check, 150)
