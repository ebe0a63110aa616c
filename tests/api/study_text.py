"""Manifests for tests: a small good study, with fields replaced or added."""

from pathlib import Path

HEAD = "apiVersion: trialfleet.dev/v1alpha1\nkind: Study\nmetadata: {name: digits}\n"

FIELDS = {
    "objectives": "[{name: accuracy, direction: maximize}]",
    "budget": "{trials: 10}",
    "objective": '{python: {callable: "package.module:objective"}}',
}

STORAGE_HEAD = "apiVersion: trialfleet.dev/v1alpha1\nkind: StudyStorage\nmetadata: {name: shared}\n"


def study(head: str = HEAD, **fields: str | None) -> str:
    """Return a Study with these fields of the spec, as YAML; None leaves a field out."""
    lines = {**FIELDS, **fields}
    return head + "spec:\n" + "".join(f"  {k}: {v}\n" for k, v in lines.items() if v is not None)


def storage(**fields: str) -> str:
    """Return a StudyStorage with these fields of the spec, as YAML."""
    return STORAGE_HEAD + "spec:\n" + "".join(f"  {k}: {v}\n" for k, v in fields.items())


def written(folder: Path, text: str) -> Path:
    """Write a manifest to a file and return its path."""
    path = folder / "study.yaml"
    path.write_text(text)
    return path
