"""Malformed manifests, each with the exact words about it, and the API server's verdict."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.api.cluster import rejections
from tests.api.study_text import HEAD, storage, study, written
from trialfleet.api import manifest
from trialfleet.api.yaml_documents import documents
from trialfleet.model.errors import InvalidInput


@dataclass(frozen=True)
class Case:
    """A manifest and what is said of it."""

    id: str
    text: str
    messages: list[str]
    cluster: bool
    """Whether the API server rejects it too."""


def _cases() -> Iterator[Case]:
    for entry in yaml.safe_load((Path(__file__).parent / "malformed.yaml").read_text()):
        fields = entry.get("fields", {})
        if entry.get("kind") == "StudyStorage":
            text = storage(**fields)
        else:
            text = study(entry.get("head", HEAD), **fields)
        yield Case(entry["case"], text, entry["says"], entry.get("cluster", True))


CASES = list(_cases())


def lines_of(text: str, folder: Path) -> list[str]:
    path = written(folder, text)
    with pytest.raises(InvalidInput) as caught:
        manifest.load(path)
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize("given", CASES, ids=lambda given: given.id)
def test_says_what_is_wrong(given: Case, tmp_path: Path) -> None:
    messages = [re.sub(r"^\d+: ", "", line) for line in lines_of(given.text, tmp_path)]
    assert messages == given.messages


@pytest.mark.parametrize("given", CASES, ids=lambda given: given.id)
def test_cluster_gives_the_same_verdict(given: Case) -> None:
    (document,) = documents(given.text)
    assert bool(rejections(document.content)) == given.cluster


def test_every_mistake_has_its_line(tmp_path: Path) -> None:
    text = study(
        sampler="{name: TPESampelr}",
        parallelism="many",
        searchSpace="\n    lr:\n      float:\n        low: 2\n        high: 1\n    x: {}",
    )
    assert lines_of(text, tmp_path) == [
        "8: spec.sampler.name: found 'TPESampelr', accepted: any class of optuna.samplers "
        "(did you mean 'TPESampler'?)",
        "9: spec.parallelism: found 'many', accepted: an integer of at least 0 and at most 10000",
        "12: spec.searchSpace.lr.float: found low 2.0 and high 1.0, accepted: low <= high",
        "15: spec.searchSpace.x: found none, accepted: exactly one of float, int and categorical",
    ]


def test_names_the_line_in_a_later_document(tmp_path: Path) -> None:
    text = study() + "---\n" + study(HEAD.replace("digits", "other"), parallelism="-1")
    assert lines_of(text, tmp_path) == [
        "16: spec.parallelism: found -1, accepted: an integer of at least 0 and at most 10000"
    ]


def test_refuses_two_of_a_name(tmp_path: Path) -> None:
    assert lines_of(study() + "---\n" + study(), tmp_path) == [
        "11: metadata.name: found a second Study 'digits', the first is on line 1; "
        "accepted: unique names"
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "spec: [",
            "1:8: expected the node content, but found '<stream end>' while parsing a flow node",
        ),
        (
            "a: 1\n\tb: 2\n",
            "2:1: found character '\\t' that cannot start any token while "
            "scanning for the next token",
        ),
        ("a: 1\n  b: 2\n", "2:4: mapping values are not allowed here"),
        (
            study(retries="1") + "  retries: 2\n",
            "9:3: found the key 'retries' twice, accepted: once",
        ),
        (
            study(searchSpace="{y: {int: {low: 1, high: 2}}}"),
            "8:17: found the key y, which Kubernetes' tools read as true; accepted: in quotes: "
            '"y"',
        ),
        ("? [a]\n: 1\n", "1:3: found a list or a mapping as a key, accepted: a string"),
        ("a: *missing\n", "1:4: found undefined alias 'missing'"),
        (
            "a: !!python/object:os.system {}\n",
            "1:4: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object:os.system'",
        ),
        ("a: \x01\n", "1:4: found the character '\\x01', accepted: printable characters"),
    ],
)
def test_says_where_yaml_is_broken(text: str, line: str, tmp_path: Path) -> None:
    assert lines_of(text, tmp_path) == [line]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("- 1\n", "1: document: found [1], accepted: an object with apiVersion and kind"),
        (
            "just words\n",
            "1: document: found 'just words', accepted: an object with apiVersion and kind",
        ),
        ("kind: Study\n", "1: apiVersion: missing, accepted: 'trialfleet.dev/v1alpha1'"),
        (
            HEAD.replace("v1alpha1", "v1"),
            "1: apiVersion: found 'trialfleet.dev/v1', accepted: 'trialfleet.dev/v1alpha1'",
        ),
        (
            HEAD.replace("Study", "Studdy"),
            "2: kind: found 'Studdy', accepted: 'Study' or 'StudyStorage' (did you mean 'Study'?)",
        ),
        (
            HEAD.replace("kind: Study\n", ""),
            "1: kind: missing, accepted: 'Study' or 'StudyStorage'",
        ),
    ],
)
def test_says_what_kind_is_accepted(text: str, line: str, tmp_path: Path) -> None:
    assert line in lines_of(text, tmp_path)


def test_says_that_a_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.yaml: No such file or directory$"):
        manifest.load(tmp_path / "none.yaml")


def test_says_that_a_file_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(InvalidInput, match=r"found bytes that are no UTF-8: invalid start byte$"):
        manifest.load(path)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n---\n"])
def test_says_that_a_file_is_empty(text: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InvalidInput) as caught:
        manifest.load(path)
    assert str(caught.value) == (
        f"{path}: found no object of trialfleet.dev, accepted: Study or StudyStorage"
    )
