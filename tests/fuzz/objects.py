"""Objects as manifests hold them, made of good and bad ones by changes at random."""

import copy
import inspect
import json
from pathlib import Path
from typing import Any, Final

import optuna
import yaml
from hypothesis import strategies as st

from tests.api.test_malformed import CASES

_ROOT: Final = Path(__file__).parents[2]
_FILES: Final = (
    *sorted((_ROOT / "examples").glob("*/study.yaml")),
    *sorted((_ROOT / "tests/upgrades").glob("*/manifests/*.yaml")),
)
TEXTS: Final = [*(path.read_text() for path in _FILES), *(case.text for case in CASES)]
"""Manifests to begin with."""


def _loaded() -> list[Any]:
    found = []
    for text in TEXTS:
        try:
            found += [one for one in yaml.safe_load_all(text) if one is not None]
            json.dumps(found[-1])
        except (yaml.YAMLError, ValueError, TypeError):
            continue
    return found


_OBJECTS: Final = _loaded()

_NAMES: Final = sorted(
    name
    for package in (optuna.samplers, optuna.pruners)
    for name, found in vars(package).items()
    if inspect.isclass(found)
)
_OPTIONS: Final = {
    name: sorted(inspect.signature(found).parameters)
    for package in (optuna.samplers, optuna.pruners)
    for name, found in vars(package).items()
    if inspect.isclass(found)
}

_KEYS: Final = st.sampled_from(("name", "x", "", "a\u2028b", "\0\n", "K" * 200))
_VALUES: Final[st.SearchStrategy[Any]] = st.sampled_from(
    (
        *(None, True, False, 0, 1, -1, 2, 10, 2**31, 2**63, -(10**30), 10**390),
        *(0.0, 0.5, -1.0, 1e-300, 1e308, -1e308, float("nan"), float("inf"), 1e-9, 2.0**53),
        *("", "x", "a.b:c", "1h", "10Gi", "1e999", "\u202e\n", "k" * 300, "(", "(" * 200, "{}"),
        *("minimize", "maximize", "float", "digits", "trialfleet.dev/v1alpha1", "-", "..", "\t\0"),
        *([], [[]], {}, {"": None}, [None], {"a": {"a": {"a": 1}}}, ["x", "x"], [1, 1.0, True]),
        *({"low": 0, "high": 1}, {"low": 1, "high": 0, "step": -1}, {"float": {}, "int": {}}),
        {"int": {"low": 1, "high": 10**15}},
        {"float": {"low": 0, "high": 1e308, "step": 1e-5}},
        {"categorical": [None, True, 1, 1.0, "1"]},
    )
).map(copy.deepcopy)


@st.composite
def _class(draw: st.DrawFn) -> Any:
    """A sampler or a pruner, with options that it has."""
    name = draw(st.sampled_from(_NAMES))
    keys = st.sampled_from(_OPTIONS[name] or ["x"])
    inner = st.fixed_dictionaries({"name": st.sampled_from(_NAMES)})
    return {"name": name, "options": draw(st.dictionaries(keys, _VALUES | inner, max_size=3))}


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Each part of an object: what it is in, and its key there."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        outer = waiting.pop()
        keys = list(outer) if isinstance(outer, dict) else range(len(outer))
        for key in keys:
            found.append((outer, key))
            if isinstance(outer[key], dict | list):
                waiting.append(outer[key])
    return found


@st.composite
def objects(draw: st.DrawFn) -> Any:
    """One of the objects with one to four of its parts changed."""
    made = copy.deepcopy(draw(st.sampled_from(_OBJECTS)))
    if not isinstance(made, dict):
        return made
    spec = made.get("spec")
    if isinstance(spec, dict) and draw(st.booleans()):
        spec[draw(st.sampled_from(("sampler", "pruner")))] = draw(_class())
    for _ in range(draw(st.integers(0, 4))):
        places = _places(made)
        if not places:
            break
        outer, key = places[draw(st.integers(0, len(places) - 1))]
        match draw(st.integers(0, 4)):
            case 0 | 1:
                outer[key] = draw(_VALUES)
            case 2:
                other, there = draw(st.sampled_from(_places(draw(st.sampled_from(_OBJECTS)))))
                outer[key] = copy.deepcopy(other[there])
            case 3:
                del outer[key]
            case _ if isinstance(outer, dict):
                outer[draw(_KEYS)] = outer[key]
            case _:
                outer *= draw(st.sampled_from((2, 30)))
    return made


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """One of the manifests with some of its characters replaced, put in or taken away."""
    text = bytearray(draw(st.sampled_from(TEXTS)).encode())
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(text)))
        some = draw(
            st.sampled_from(
                (b":", b"- ", b"\n", b"\t", b"{", b"[", b"&a ", b"*a", b"<<: *a", b"!!int ", b"|\n")
            )
            | st.sampled_from((b"? ", b"%", b"---\n", b"\xff", b"\xe2\x80\xa8", b"0x", b"_", b"#"))
            | st.binary(max_size=3)
        )
        match draw(st.integers(0, 2)):
            case 0:
                text[place : place + len(some)] = some
            case 1:
                text[place:place] = some
            case _:
                del text[place : place + draw(st.integers(1, 30))]
    return bytes(text)
