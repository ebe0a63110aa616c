"""Trials as tables for people, and as CSV and JSON for programs."""

import codecs
import csv
import datetime
import enum
import json
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trialfleet import names
from trialfleet.cli.trial_slices import Keys, keys_of

LONGEST_CELL: Final = 60
"""Characters of a parameter's or message's text in a table."""


LONGEST_TABLE: Final = 500
"""Rows that rich lays out."""

_MOVING: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class _Column(NamedTuple):
    name: str
    left: bool = False
    fold: bool = False


class OutputFormat(enum.StrEnum):
    """How results are written to standard output."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def standard_output() -> Console:
    """Return standard output for results; what is no terminal has no width."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=10_000)


def best_trials(study: optuna.Study, limit: int | None) -> list[FrozenTrial]:
    """Return a study's best trials, the best first; with several objectives the Pareto front.

    Trials that break a constraint are none of them.
    """
    if len(study.directions) > 1:
        return study.best_trials[:limit]
    sign = -1.0 if study.directions[0] == StudyDirection.MAXIMIZE else 1.0
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    feasible = [t for t in complete if all(value <= 0 for value in t.constraints.values())]
    feasible.sort(key=lambda trial: (sign * (trial.value or 0.0), trial.number))
    return feasible[:limit]


def metric_names(study: optuna.Study) -> list[str]:
    """Return the names of the objectives, or names that count where there are none."""
    if study.metric_names is not None:
        return list(study.metric_names)
    count = len(study.directions)
    return ["value"] if count == 1 else [f"value_{index}" for index in range(count)]


def write_trials(
    console: Console,
    slices: Iterable[Sequence[FrozenTrial]],
    keys: Keys,
    metrics: Sequence[str],
    output: OutputFormat,
) -> None:
    """Write trials to a console's file, as a table, as CSV with a header, or as a JSON list.

    CSV and JSON are written slice by slice. A table's columns are as wide as their widest cell.
    """
    if output is OutputFormat.JSON:
        write_json_list(
            console.file, (as_json(trial, metrics) for trials in slices for trial in trials)
        )
    elif output is OutputFormat.CSV:
        write_csv(console.file, slices, keys, metrics)
    else:
        trials = [trial for some in slices for trial in some]
        if len(trials) > LONGEST_TABLE:
            _write_lines(console, trials, metrics)
        else:
            console.print(table(trials, metrics))


def write_results(storage: BaseStorage, study_id: int, folder: Path) -> None:
    """Write all trials of a study into a folder, as ``trials.json`` and ``trials.csv``."""
    study = optuna.load_study(study_name=storage.get_study_name_from_id(study_id), storage=storage)
    trials, metrics = study.get_trials(deepcopy=False), metric_names(study)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "trials.json").open("w", encoding="utf-8") as file:
        write_json(file, [as_json(trial, metrics) for trial in trials])
    with (folder / "trials.csv").open("w", encoding="utf-8", newline="") as file:
        write_csv(file, [trials], keys_of(trials), metrics)


def table(trials: Sequence[FrozenTrial], metrics: Sequence[str]) -> Table:
    """Return a table: values, parameters, how long, and where some failed, why."""
    columns, rows = _columns_and_rows(trials, metrics)
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        shown.add_column(
            cell(column.name),
            justify="left" if column.left else "right",
            overflow="fold" if column.fold else "ellipsis",
        )
    for row in rows:
        shown.add_row(*map(cell, row))
    return shown


def _write_lines(console: Console, trials: Sequence[FrozenTrial], metrics: Sequence[str]) -> None:
    """Write what ``table`` shows, line by line: rich takes a second for a thousand rows."""
    columns, rows = _columns_and_rows(trials, metrics)
    header = [column.name for column in columns]
    texts = [[cell(text).plain for text in row] for row in (header, *rows)]
    widths = [max(map(cell_len, texts_of)) for texts_of in zip(*texts, strict=True)]
    bold, plain = ("\x1b[1m", "\x1b[0m") if console.is_terminal else ("", "")
    for index, row in enumerate(texts):
        cells = [
            text + _pad(text, width) if column.left else _pad(text, width) + text
            for text, width, column in zip(row, widths, columns, strict=True)
        ]
        line = "  ".join(cells).rstrip()
        console.file.write(f"{bold}{line}{plain}\n" if index == 0 else f"{line}\n")


def _pad(text: str, width: int) -> str:
    return " " * (width - cell_len(text))


def _columns_and_rows(
    trials: Sequence[FrozenTrial], metrics: Sequence[str]
) -> tuple[list[_Column], Iterator[list[str]]]:
    """Return the columns of a table, and its rows one by one."""
    params = keys_of(trials).params
    states = {trial.state for trial in trials} - {TrialState.COMPLETE}
    reasons = any(_reason(trial) for trial in trials)
    columns = [_Column("trial"), *([_Column("state", left=True)] if states else [])]
    columns += map(_Column, metrics)
    columns += [_Column(name, fold=True) for name in params]
    columns += [_Column("seconds"), *([_Column("reason", left=True, fold=True)] if reasons else [])]

    def rows() -> Iterator[list[str]]:
        for trial in trials:
            row = [str(trial.number)]
            row += [trial.state.name.lower()] if states else []
            values = trial.values or [None] * len(metrics)
            row += ["" if value is None else f"{value:.6g}" for value in values]
            row += [_value(trial.params[name]) if name in trial.params else "" for name in params]
            row.append("" if trial.duration is None else f"{trial.duration.total_seconds():.2f}")
            row += [_reason(trial)] if reasons else []
            yield row

    return columns, rows()


def write_csv(
    file: IO[str], slices: Iterable[Sequence[FrozenTrial]], keys: Keys, metrics: Sequence[str]
) -> None:
    """Write trials as CSV: a column for each value, and each parameter and attribute of ``keys``.

    The columns' names are those of Optuna's ``trials_dataframe``. What is no text and no number
    is written as JSON.
    """
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            *("number", "state", *metrics, "datetime_start", "datetime_complete", "duration_s"),
            *(f"params_{name}" for name in keys.params),
            *(f"user_attrs_{name}" for name in keys.user_attrs),
            *(f"system_attrs_{name}" for name in keys.system_attrs),
        ]
    )
    for trials in slices:
        writer.writerows(_csv_row(trial, keys, metrics) for trial in trials)


def _csv_row(trial: FrozenTrial, keys: Keys, metrics: Sequence[str]) -> list[object]:
    values: Sequence[float | None] = trial.values or [None] * len(metrics)
    return [
        *(trial.number, trial.state.name, *values),
        *(_time(trial.datetime_start), _time(trial.datetime_complete), _seconds(trial)),
        *(_csv_cell(trial.params, name) for name in keys.params),
        *(_csv_cell(trial.user_attrs, name) for name in keys.user_attrs),
        *(_csv_cell(trial.system_attrs, name) for name in keys.system_attrs),
    ]


def as_json(trial: FrozenTrial, metrics: Sequence[str]) -> dict[str, Any]:
    """Return a trial as an object for ``write_json``."""
    values = trial.values
    return {
        "number": trial.number,
        "state": trial.state.name,
        "values": None if values is None else dict(zip(metrics, values, strict=True)),
        "params": trial.params,
        "datetime_start": _time(trial.datetime_start),
        "datetime_complete": _time(trial.datetime_complete),
        "duration_s": _seconds(trial),
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        "intermediate_values": {str(s): v for s, v in trial.intermediate_values.items()},
    }


def write_json(file: IO[str], value: object) -> None:
    """Write a value as JSON that every parser takes: NaN and infinities become strings.

    Where the file is not in UTF-8, or a text is none, characters are escaped as JSON does it.
    """
    file.write(f"{_json(file, value)}\n")


def write_json_list(file: IO[str], values: Iterable[object]) -> None:
    """Write as ``write_json`` does a list, item by item."""
    between = "["
    for value in values:
        file.write(f"{between}\n{textwrap.indent(_json(file, value), '  ')}")
        between = ","
    file.write("[]\n" if between == "[" else "\n]\n")


def _json(file: IO[str], value: object) -> str:
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    encoding = codecs.lookup(getattr(file, "encoding", None) or "utf-8").name
    try:
        text.encode("ascii" if encoding != "utf-8" else encoding)
    except UnicodeEncodeError:
        text = json.dumps(_finite(value), indent=2, allow_nan=False)
    return text


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _reason(trial: FrozenTrial) -> str:
    message = trial.system_attrs.get(names.ATTR_MESSAGE)
    return str(message or trial.system_attrs.get(names.ATTR_REASON) or "")


def _value(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def cell(text: str) -> Text:
    """Return what a table shows of a text: short, and no character that would move the cursor."""
    short = text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 3] + "..."
    return Text(_MOVING.sub(lambda found: found[0].encode("unicode_escape").decode(), short))


def _csv_cell(mapping: dict[str, Any], key: str) -> object:
    value = mapping.get(key)
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)


def _time(moment: datetime.datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _seconds(trial: FrozenTrial) -> float | None:
    return None if trial.duration is None else trial.duration.total_seconds()
