"""The chart as Helm's own engine renders it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "trialfleet"
VALUES = sorted((Path(__file__).parent / "values").glob("*.yaml"))

Object = dict[str, Any]


def read_values(path: Path | None) -> Object:
    """Return the values of a file; of none, the chart's own."""
    return {} if path is None else yaml.safe_load(path.read_text(encoding="utf-8"))


def render_texts(values: Mapping[str, Any], name: str, namespace: str) -> dict[str, str]:
    """Return what each template becomes."""
    with helm_python.Chart.load(str(CHART)) as chart:
        rendered: dict[str, str] = chart.render(dict(values), name=name, namespace=namespace)
    return {Path(path).name: text for path, text in rendered.items()}


def render(
    values: Mapping[str, Any], name: str = "trialfleet", namespace: str = "team"
) -> list[Object]:
    """Return the objects of a release."""
    texts = render_texts(values, name, namespace)
    texts.pop("NOTES.txt", None)
    return [obj for text in texts.values() for obj in yaml.safe_load_all(text) if obj]


def of_kind(objects: list[Object], *kinds: str) -> Iterator[Object]:
    """Yield the objects of some kinds."""
    return (obj for obj in objects if obj["kind"] in kinds)


def only(objects: list[Object], kind: str, name: str | None = None) -> Object:
    """Return the one object of a kind, or of a kind and a name."""
    (found,) = (
        obj for obj in of_kind(objects, kind) if name is None or obj["metadata"]["name"] == name
    )
    return found
