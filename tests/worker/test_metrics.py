"""Where a program's metrics are found, and what is said of those that are not."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from trialfleet import names
from trialfleet.api.objective import Metric
from trialfleet.worker.failure import Failed
from trialfleet.worker.program_metrics import ProgramMetrics


def metrics(
    *objectives: str,
    folder: Path = Path("/nowhere"),
    checkpoints: Path | None = None,
    alone: bool = True,
    **given: Any,
) -> ProgramMetrics:
    return ProgramMetrics(
        objectives,
        {name: Metric(**metric) for name, metric in given.items()} or None,
        folder=folder,
        checkpoints=checkpoints,
        is_alone=lambda: alone,
    )


def values(found: ProgramMetrics, lines: Sequence[str] = ()) -> list[float]:
    for line in lines:
        found.see(f"{line}\n")
    return found.values()


def message(found: ProgramMetrics, lines: Sequence[str] = ()) -> str:
    with pytest.raises(Failed) as caught:
        values(found, lines)
    assert caught.value.failure.reason == names.REASON_OBJECTIVE_RETURNED
    return caught.value.failure.message


def test_the_last_line_of_json_with_all_objectives_counts() -> None:
    lines = [
        '{"loss": 3, "accuracy": 0.1, "epoch": 1}',
        '  {"accuracy": 0.9, "loss": 2}\r',
        '{"loss": 1}',
        "{no json}",
        "{" + "[" * 100_000 + "}",
        '["loss", "accuracy"]',
        "done",
    ]

    assert values(metrics("loss", "accuracy"), lines) == [2.0, 0.9]


def test_each_metric_has_a_line_of_json_of_its_own() -> None:
    found = metrics("loss", "f1", f1={"key": "val_f1"}, loss={})

    assert values(found, ['{"loss": 3, "val_f1": 1}', '{"loss": 2.5}']) == [2.5, 1.0]


def test_the_last_match_of_a_regular_expression_counts() -> None:
    found = metrics("loss", loss={"regex": r"loss=(\S+)?"})

    assert values(found, ["loss=3", "step 7 loss=2 loss=1e-3", "loss=", "done"]) == [0.001]


@pytest.mark.parametrize(
    ("text", "value"), [("Infinity", math.inf), ("-1e400", -math.inf), ("12", 12.0)]
)
def test_numbers(text: str, value: float) -> None:
    assert values(metrics("loss"), [f'{{"loss": {text}}}']) == [value]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ('"0.93"', "'0.93'"),
        ("null", "null"),
        ("true", "true"),
        ("NaN", "NaN"),
        ("[1]", "[1]"),
        ("1" * 400, "1" * 97 + "..."),
    ],
)
def test_what_is_no_number_in_json(value: str, shown: str) -> None:
    assert message(metrics("loss"), [f'{{"loss": {value}}}']) == (
        f"no value for loss: found {shown}, expected a number"
    )


@pytest.mark.parametrize(
    ("text", "shown"), [("0.93,", "'0.93,'"), ("93%", "'93%'"), ("nan", "NaN")]
)
def test_what_is_no_number_in_a_match(text: str, shown: str) -> None:
    assert message(metrics("acc", acc={"regex": "acc=(.*)"}), [f"acc={text}"]) == (
        f"no value for acc: found {shown}, expected a number"
    )


def test_a_program_that_prints_no_metric() -> None:
    assert message(metrics("loss"), ["loss 3", "", "it's done"]) == (
        "no value for loss: no line that the program printed is a JSON object with the key 'loss'; "
        """standard output has 3 lines, 18 characters, the last one is "it's done"; """
        "standard error is empty"
    )
    assert message(metrics("loss", "f1"), ['{"loss": 1}']) == (
        "no value for loss: no line that the program printed is a JSON object with the keys "
        """'loss', 'f1'; standard output has 1 line, 12 characters, """
        """the last one is '{"loss": 1}'; standard error is empty"""
    )
    assert message(metrics("loss", loss={"regex": r"loss=(\d+)"}), ["loss: 3"]) == (
        r"no value for loss: no line that the program printed matches loss=(\d+); standard output "
        "has 1 line, 8 characters, the last one is 'loss: 3'; standard error is empty"
    )


def test_a_program_that_prints_nothing() -> None:
    assert message(metrics("loss"), ["", "  "]).endswith(
        "; standard output has 2 lines, 4 characters; standard error is empty"
    )


def write(file: Path, content: Any) -> None:
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def test_a_file_in_the_working_directory(tmp_path: Path) -> None:
    both: dict[str, Any] = {"loss": {"file": "m.json"}, "f1": {"file": "m.json", "key": "score"}}
    found = metrics("f1", "loss", folder=tmp_path, checkpoints=tmp_path / "none", **both)
    write(tmp_path / "m.json", {"loss": 2, "score": 0.5})

    assert values(found) == [0.5, 2.0]


def test_a_file_in_the_checkpoint_folder_goes_first(tmp_path: Path) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    for folder in (own, shared):
        folder.mkdir()
    found = metrics(
        "loss", folder=shared, checkpoints=own, alone=False, loss={"file": "metrics.json"}
    )
    write(shared / "metrics.json", {"loss": 1})
    write(own / "metrics.json", {"loss": 2})

    assert values(found) == [2.0]


def test_a_shared_file_of_several_workers(tmp_path: Path) -> None:
    found = metrics("loss", folder=tmp_path, alone=False, loss={"file": "m.json"})
    write(tmp_path / "m.json", {"loss": 1})

    assert message(found) == (
        f"no value for loss: {tmp_path}/m.json may be another trial's, because several workers run "
        "there; accepted: m.json in the folder $TRIALFLEET_CHECKPOINT_DIR, or parallelism 1"
    )


def test_a_file_from_before_the_trial_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    write(file, {"loss": 1})
    os.utime(file, ns=(0, 0))
    found = metrics("loss", folder=tmp_path, loss={"file": "m.json"})

    assert message(found) == f"no value for loss: the program has not written {file}"
    write(file, {"loss": 1})
    assert values(found) == [1.0]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "m.json holds no JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[1, 2]", "m.json holds [1, 2], accepted: a JSON object"),
        ('{"a": 1, "b": 2}', "m.json has no key 'loss'; its keys: 'a', 'b'"),
        ("{}", "m.json has no key 'loss'; its keys: none"),
        ("[" * 100_000, "m.json holds no JSON: maximum recursion depth exceeded"),
        (" " * (16 * 1024 * 1024 + 1), "m.json is larger than 16777216 bytes"),
        ('{"loss": "1"}', "found '1', expected a number"),
    ],
)
def test_a_file_without_the_metric(tmp_path: Path, content: str, told: str) -> None:
    found = metrics("loss", folder=tmp_path, loss={"file": "m.json"})
    write(tmp_path / "m.json", content)

    assert message(found).startswith(f"no value for loss: {told}")


def test_a_file_that_can_t_be_read_at_all(tmp_path: Path) -> None:
    found = metrics("loss", folder=tmp_path, loss={"file": "m.json"})
    os.mkfifo(tmp_path / "m.json")

    assert "has not written" in message(found)


@pytest.mark.parametrize(
    ("given", "line"),
    [({"regex": r"loss=(\S+)"}, "INFO loss=0.5"), ({}, '{"loss": 0.5}'), (None, '{"loss": 0.5}')],
)
def test_what_standard_output_lacks_is_looked_for_in_standard_error(
    given: dict[str, str] | None, line: str
) -> None:
    found = metrics("loss") if given is None else metrics("loss", loss=given)
    found.see_error(f"{line.replace('5', '7')}\n")
    found.see_error(f"{line}\n")
    assert values(found) == [0.5]
    found.see(f"{line.replace('5', '9')}\n")
    found.see_error(f"{line}\n")
    assert values(found) == [0.9]


def test_what_standard_error_says_is_told_where_there_is_no_metric() -> None:
    found = metrics("loss", loss={"regex": r"loss=(\S+)"})
    found.see_error("done\n")
    assert message(found).endswith(
        "; standard output is empty; standard error has 1 line, 5 characters, "
        "the last one is 'done'"
    )


def test_a_line_that_was_too_long_is_told() -> None:
    found = metrics("loss")
    found.see_length(20_000_000)
    assert message(found, ["done"]) == (
        "no value for loss: no line that the program printed is a JSON object with the key 'loss'; "
        "a line of 20000000 bytes was not read, accepted: at most 16777216"
    )
