"""Manifests that would cost whoever checks them much: the operator does so again and again."""

import json
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.api.study_text import HEAD, written
from trialfleet.api import manifest
from trialfleet.api.study import Study
from trialfleet.api.study_storage import StudyStorage
from trialfleet.api.verdict import Rejected, check
from trialfleet.model.errors import InvalidInput

MOST_S: Final = 0.050
MOST_BYTES: Final = 5 * 1024 * 1024
MEBIBYTE: Final = 1024 * 1024


def _nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"a": 1}
    for _ in range(levels):
        value = {"a": value}
    return value


def _samplers(levels: int) -> dict[str, Any]:
    sampler: dict[str, Any] = {"name": "TPESampler", "options": {}}
    for _ in range(levels):
        options = {"fixed_params": {}, "base_sampler": sampler}
        sampler = {"name": "PartialFixedSampler", "options": options}
    return sampler


def _metric(regex: str) -> dict[str, Any]:
    return {"command": {"args": ["train"], "metrics": {"accuracy": {"regex": regex}}}}


def _job(spec: object) -> dict[str, Any]:
    return {"job": {"template": {"apiVersion": "batch/v1", "kind": "Job", "spec": spec}}}


LIST: Final = list(range(20))
WHOLE: Final = {"int": {"low": 0, "high": 19}}
SPACE: Final = {f"p{index}": WHOLE for index in range(10)}
POINT: Final = {f"p{index}": 1 for index in range(10)}
TEXT: Final = "\U0001f600" * (MEBIBYTE // 4)

# Of each field what is long, deep, or takes long to look at. What is said begins so; "" is good.
SPECS: Final[dict[str, tuple[Mapping[str, Any], str]]] = {
    "objectives-many": (
        {"objectives": [{"name": f"o{n}", "direction": "minimize"} for n in range(5000)]},
        "spec.objectives: found a list of 5000, accepted: a list of 1 to 16 items",
    ),
    "objective-name-long": (
        {"objectives": [{"name": "a" * MEBIBYTE, "direction": "minimize"}]},
        "spec.objectives[0].name: found 'aaa",
    ),
    "sampler-name-long": ({"sampler": {"name": TEXT}}, "spec.sampler.name: found '\U0001f600"),
    "grid-huge": (
        {
            "sampler": {
                "name": "GridSampler",
                "options": {"search_space": {f"p{n}": LIST for n in range(8)}},
            }
        },
        "spec.sampler.options.search_space: found a grid of 25,600,000,000 points, accepted: at "
        "most 1,000,000",
    ),
    "grid-huger": (
        {
            "sampler": {
                "name": "GridSampler",
                "options": {"search_space": {f"p{n}": LIST for n in range(900)}},
            }
        },
        "spec.sampler.options.search_space: found a grid of 10^1170 points",
    ),
    "grid-of-search-space": (
        {"sampler": {"name": "GridSampler"}, "searchSpace": SPACE},
        "spec.sampler.options.search_space: found a grid of 10,240,000,000,000 points",
    ),
    "grid-of-a-wide-range": (
        {
            "sampler": {"name": "GridSampler"},
            "searchSpace": {"a": {"int": {"low": 0, "high": 2**53}}},
        },
        "spec.sampler.options.search_space: found a grid of 9,007,199,254,740,993 points",
    ),
    "grid-of-a-small-step": (
        {
            "sampler": {"name": "GridSampler"},
            "searchSpace": {"a": {"float": {"low": 0, "high": 1, "step": 1e-12}}},
        },
        "spec.sampler.options.search_space: found a grid of 1,000,000,000,001 points",
    ),
    "brute-force": (
        {
            "sampler": {"name": "BruteForceSampler"},
            "searchSpace": {"a": {"int": {"low": 1, "high": 10**12}}},
        },
        "spec.searchSpace.a.int: found 1000000000000 values, accepted by BruteForceSampler",
    ),
    "samplers-deep": (
        {"sampler": _samplers(25)},
        "spec.sampler.options.base_sampler.options.base_sampler.options.base_sampler.options."
        "base_sampler.options.base_sampler: found more than 4 in one another, accepted: at most 4",
    ),
    "samplers-deeper": (
        {"sampler": _samplers(5000)},
        "spec.sampler.options: found more than 64 levels, accepted: fewer",
    ),
    "options-many": (
        {"sampler": {"name": "TPESampler", "options": {f"o{n}": n for n in range(1000)}}},
        "spec.sampler.options.o0: unknown option of TPESampler",
    ),
    "options-too-many": (
        {"sampler": {"name": "TPESampler", "options": {f"o{n}": n for n in range(9000)}}},
        "spec.sampler.options: found 9000 fields, accepted: at most 1000",
    ),
    "option-long": (
        {
            "sampler": {
                "name": "PartialFixedSampler",
                "options": {"fixed_params": {TEXT: TEXT}, "base_sampler": {"name": "TPESampler"}},
            }
        },
        "",
    ),
    "options-deep": (
        {"sampler": {"name": "CmaEsSampler", "options": {"x0": _nested(5000)}}},
        "spec.sampler.options: found more than 64 levels",
    ),
    "option-refused": (
        {"pruner": {"name": "HyperbandPruner", "options": {"max_resource": TEXT}}},
        "spec.pruner.options: refused by HyperbandPruner: The 'max_resource' should be integer",
    ),
    "seed-huge": (
        {"sampler": {"name": "TPESampler", "options": {"seed": 10**4000}}},
        "spec.sampler.options: refused by TPESampler: Seed must be between 0 and 2**32 - 1",
    ),
    "timeout-long": (
        {"budget": {"timeout": "1" * MEBIBYTE}},
        "spec.budget.timeout: found '111",
    ),
    "timeout-large": ({"budget": {"timeout": "9" * 31 + "h"}}, "spec.budget.timeout: found '999"),
    "points-many": ({"trials": [POINT] * 1700, "searchSpace": SPACE}, ""),
    "points-too-many": (
        {"trials": [POINT] * 10_000, "searchSpace": SPACE},
        "document: found more than 20000 values, accepted: at most so many; points to run first",
    ),
    "points-unknown": (
        {"trials": [{f"{n:0120}": n for n in range(250)}] * 70, "searchSpace": SPACE},
        "spec.trials[0].000",
    ),
    "points-impossible": (
        {"trials": [dict.fromkeys(POINT, 1e300)] * 1700, "searchSpace": SPACE},
        "spec.trials[0].p0: found 1e+300, accepted: a whole number from 0 to 19",
    ),
    "points-of-lists": (
        {"trials": [{key: [] for key in POINT}] * 1700},
        "spec.trials[0].p0: found [], accepted: a string, a number, true, false or null",
    ),
    "point-names-long": ({"trials": [{"a" * MEBIBYTE: 1}]}, "spec.trials[0][aaa"),
    "choices-many": (
        {"searchSpace": {f"p{n}": {"categorical": list(range(1000))} for n in range(18)}},
        "",
    ),
    "choices-long": (
        {"searchSpace": {"a": {"categorical": [TEXT, 1]}}, "trials": [{"a": 2}]},
        "spec.trials[0].a: found 2, accepted: one of '\U0001f600",
    ),
    "choices-that-collide": (
        {"searchSpace": {"a": {"categorical": [n * (2**61 - 1) for n in range(1000)]}}},
        "spec.searchSpace.a: found 11529215046068469755 in categorical, accepted: integers of 64",
    ),
    "parameters-many": ({"searchSpace": {f"{n:0128}": WHOLE for n in range(256)}}, ""),
    "parameters-with-many-fields": (
        {"searchSpace": {f"p{n}": {f"f{m}": 1 for m in range(76)} for n in range(256)}},
        "document: found 19456 mistakes, which are too many to tell: accepted: none",
    ),
    "range-that-overflows": (
        {"searchSpace": {"a": {"float": {"low": -1.7e308, "high": 1.7e308}}}},
        "spec.searchSpace.a.float: found low -1.7e+308 and high 1.7e+308, accepted: a distance",
    ),
    "step-tiny": (
        {"searchSpace": {"a": {"float": {"low": 0, "high": 1, "step": 1e-300}}}},
        "spec.searchSpace.a.float: found step 1e-300 for a range of 1.0, accepted: at most 2^53",
    ),
    "integer-of-many-digits": (
        {"searchSpace": {"a": {"int": {"low": 0, "high": 10**4000}}}},
        "spec.searchSpace.a.int.high: found 1000000",
    ),
    "source-long": ({"objective": {"python": {"source": "#" * 262_144}}}, ""),
    "source-too-long": (
        {"objective": {"python": {"source": "#" * MEBIBYTE}}},
        "spec.objective.python.source: found '###",
    ),
    "callable-long": (
        {"objective": {"python": {"callable": "a." * (MEBIBYTE // 2) + "b"}}},
        "spec.objective.python.callable: found 'a.a.",
    ),
    "arguments-of-dollars": (
        {"objective": {"command": {"args": ["$(p0)" * 800] * 256}}, "searchSpace": SPACE},
        "spec.objective.command: found 204800 dollar signs, accepted: at most 10000",
    ),
    "arguments-of-parentheses": (
        {"objective": {"command": {"args": ["$(" * 19] * 256}}, "searchSpace": SPACE},
        "",
    ),
    "placeholder-long": (
        {"objective": _job({"a": f"$({'a' * MEBIBYTE})"}), "searchSpace": SPACE},
        "spec.objective.job: found $(aaa",
    ),
    "environment-many": (
        {"objective": {"command": {"args": ["a"], "env": {f"E{n}": "v" for n in range(900)}}}},
        "spec.objective.command.env: found an object of 900 fields, accepted:",
    ),
    "regex-that-backtracks": (
        {"objective": _metric("(" + "(?:a*)*" * 140 + ")$"), "searchSpace": SPACE},
        "",
    ),
    "regex-of-repeats": (
        {"objective": _metric("(?:" * 70 + "(x)" + "){1,1000}" * 70), "searchSpace": SPACE},
        "",
    ),
    "regex-of-wide-ranges": (
        {"objective": _metric("(?i)(x)" + "[\x01-\U0010fffe]" * 200), "searchSpace": SPACE},
        "spec.objective.command.metrics.accuracy: found regex '(?i)(x)[",
    ),
    "regex-of-escaped-ranges": (
        {"objective": _metric("(?i)(x)" + r"[\0-\U0010fffe]" * 60), "searchSpace": SPACE},
        "spec.objective.command.metrics.accuracy: found regex '(?i)(x)[",
    ),
    "regex-deep": (
        {"objective": _metric("(" * 500 + ")" * 500), "searchSpace": SPACE},
        "spec.objective.command.metrics.accuracy: found regex '(((",
    ),
    "job-deep": (
        {"objective": _job(_nested(5000)), "searchSpace": SPACE},
        "spec.objective.job: found more than 64 levels",
    ),
    "job-many": ({"objective": _job({"a": [{"b": 1}] * 9000}), "searchSpace": SPACE}, ""),
    "job-text": ({"objective": _job({"a": TEXT}), "searchSpace": SPACE}, ""),
    "containers-many": (
        {"template": {"spec": {"containers": [{"name": "worker", "imagee": 1}] * 6000}}},
        "spec.template.spec.containers: found a list of 6000",
    ),
    "labels-many": (
        {"template": {"metadata": {"labels": {f"l{n}": "a" for n in range(999)}}}},
        "spec.template.metadata.labels: found an object of 999 fields",
    ),
    "fields-unknown": ({f"f{n}": 1 for n in range(900)}, "spec.f0: unknown field"),
    "field-name-long": ({"a" * MEBIBYTE: 1}, "spec[aaa"),
    "texts": ({"storage": {"name": TEXT}}, "spec.storage.name: found '\U0001f600"),
    "prepare": ({"prepare": {"spec": _nested(5000)}}, "spec.prepare.spec: found more than 64"),
    "collate": ({"collate": {"spec": {"containers": TEXT}}}, "spec.collate.spec.containers: found"),
    "trials-from": (
        {"trialsFrom": {"configMap": {"name": TEXT, "key": TEXT}}},
        "spec.trialsFrom.configMap.name: found",
    ),
}


def _study(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "trialfleet.dev/v1alpha1",
        "kind": "Study",
        "metadata": {"name": "digits"},
        "spec": {
            "objectives": [{"name": "accuracy", "direction": "maximize"}],
            "budget": {"trials": 10},
            "objective": {"python": {"callable": "package.module:objective"}},
            **spec,
        },
    }


def _verdict(content: Mapping[str, Any]) -> str:
    try:
        check(Study, content)
    except Rejected as rejected:
        return str(rejected)
    return ""


def _seconds(call: Callable[[], object]) -> float:
    """Return the processor time of a call, the best of some, as on a core that is ours alone.

    Others may use its other half, or the memory: then a reference takes longer too.
    """
    best = float("inf")
    for _ in range(10):
        slowness = max(1.0, _timed(_reference) / _REFERENCE_S)
        best = min(best, _timed(call) / slowness)
    return best


_REFERENCE_S = 0.012  # on a core on which the bounds hold


def _timed(call: Callable[[], object]) -> float:
    began = time.thread_time()
    call()
    return time.thread_time() - began


def _reference() -> object:
    return json.loads(json.dumps([{"low": n, "high": str(n)} for n in range(10_000)]))


@pytest.mark.parametrize("name", SPECS)
def test_no_study_costs_the_operator_more_than_a_little(name: str) -> None:
    spec, says = SPECS[name]
    content = _study(spec)
    check(Study, _study({}))
    tracemalloc.start()
    try:
        verdict = _verdict(content)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert verdict[:2000].startswith(says) if says else verdict == ""
    assert len(verdict) < 64 * 1024
    assert most < MOST_BYTES
    assert _seconds(lambda: _verdict(content)) < MOST_S


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"postgres": {"managed": _nested(5000)}}, "spec.postgres.managed: found more than 64"),
        ({f"f{n}": 1 for n in range(20_001)}, "document: found more than 20000 values"),
        ({"proxy": {"gracePeriod": "1" * MEBIBYTE}}, "spec.proxy.gracePeriod: found '111"),
    ],
)
def test_no_storage_does(spec: Mapping[str, Any], says: str) -> None:
    content = {**_study({}), "kind": "StudyStorage", "spec": spec}

    def verdict() -> str:
        with pytest.raises(Rejected) as caught:
            check(StudyStorage, content)
        return str(caught.value)

    assert verdict().startswith(says)
    assert _seconds(verdict) < MOST_S


def test_no_more_than_fifty_mistakes_are_told() -> None:
    lines = _verdict(_study({f"f{n}": 1 for n in range(100)})).splitlines()
    assert len(lines) == 51
    assert lines[-1] == "document: the first 50 mistakes are told, there are more"


def _bomb(line: str, first: str) -> str:
    return f"\n  a0: &a0 {first}\n" + "".join(
        line.format(n=n, before=",".join([f"*a{n - 1}"] * 9)) for n in range(1, 12)
    )


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("[" * 10_000, "found more than 100 levels, accepted: at most 100"),
        ("{a: " * 5_000 + "}" * 5_000, "found more than 100 levels, accepted: at most 100"),
        (
            _bomb("  a{n}: &a{n} [{before}]\n", "[1, 2, 3]"),
            "found more than 200000 values, with aliases replaced by what they name",
        ),
        (
            _bomb("  a{n}: &a{n}\n    <<: [{before}]\n", "{x: 1, y: 2}"),
            "found more than 200000 values, with aliases replaced by what they name",
        ),
        (
            "\n  a0: &a0 [1]\n" + "".join(f"  a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2000)),
            "found more than 100 levels, with aliases replaced by what they name",
        ),
        ("&a [*a]", "found an alias to what it is in, accepted: no cycle"),
        ("{parallelism: " + "1" * 5000 + "}", "found an integer of 5000 digits, accepted: fewer"),
        ("{parallelism: 0x_}", "found '0x_', accepted: an integer"),
        ("{parallelism: !!int abc}", "found 'abc', accepted: an integer"),
        ("{parallelism: !!float abc}", "could not convert string to float: 'abc'"),
    ],
)
def test_yaml_that_is_deep_or_multiplies_is_told(spec: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        manifest.read(written(tmp_path, f"{HEAD}spec: {spec}"))
    assert says in str(caught.value)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InvalidInput, match="found more than 8388608 bytes, accepted: fewer"):
        manifest.read(path)
