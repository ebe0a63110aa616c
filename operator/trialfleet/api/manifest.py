"""Manifests: YAML files of Study and StudyStorage, read as the cluster would take them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from trialfleet import names
from trialfleet.api.base import Finding
from trialfleet.api.study import Study
from trialfleet.api.study_storage import StudyStorage
from trialfleet.api.suggestions import did_you_mean, found, printable
from trialfleet.api.verdict import Rejected, check, line
from trialfleet.api.yaml_documents import Document, YamlError, documents
from trialfleet.model.errors import InvalidInput

Resource = Study | StudyStorage

KINDS: Final[dict[str, type[Study] | type[StudyStorage]]] = {
    "Study": Study,
    "StudyStorage": StudyStorage,
}


MAX_BYTES: Final = 8 * 1024 * 1024
"""Of a file; a cluster takes objects of 1.5 MiB."""


@dataclass(frozen=True)
class Manifest:
    """What a file holds."""

    path: Path
    resources: list[Resource] = field(default_factory=list)
    """In the order of the file."""
    notices: list[str] = field(default_factory=list)
    """What is accepted but has no effect, or not everywhere: one line each, with file and line."""
    config_maps: dict[str, dict[str, str]] = field(default_factory=dict)
    """The data of the file's ConfigMaps by name, for references to them."""


def load(path: Path | str) -> list[Resource]:
    """Return the resources of a file.

    Raises:
        InvalidInput: As ``read``.
    """
    return read(path).resources


def read(path: Path | str) -> Manifest:
    """Return what a file holds: resources, and ConfigMaps that they may refer to.

    Objects of other kinds are left to the cluster, with a notice.

    Raises:
        InvalidInput: The file can't be read, is no YAML, or holds what the cluster would reject.
            One line for each mistake, all of them: ``FILE:LINE: PATH: what was found, what is
            accepted``.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise InvalidInput(f"{path}: found more than {MAX_BYTES} bytes, accepted: fewer")
        text = data.decode()
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: found bytes that are no UTF-8: {error.reason}") from None
    manifest = Manifest(path)
    mistakes = list(_fill(manifest, text))
    if not mistakes and not manifest.resources:
        mistakes = [f"{path}: found no object of {names.DOMAIN}, accepted: {' or '.join(KINDS)}"]
    if mistakes:
        raise InvalidInput("\n".join(mistakes))
    return manifest


def _fill(manifest: Manifest, text: str) -> Iterator[str]:
    """Put what the text holds into the manifest; yield what is wrong with it."""
    named: dict[tuple[str, str | None, str], int] = {}
    try:
        for document in documents(text):
            try:
                resource = _resource(document, manifest)
            except Rejected as rejected:
                findings = sorted(rejected.findings, key=lambda f: document.line_of(f.path))
                yield from (_located(manifest.path, document, f) for f in findings)
                continue
            if resource is None:
                continue
            key = (resource.kind, resource.metadata.namespace, resource.metadata.name)
            if key in named:
                again = Finding(
                    ("metadata", "name"),
                    f"found a second {resource.kind} {resource.metadata.name!r}, the first is on "
                    f"line {named[key]}; accepted: unique names",
                )
                yield _located(manifest.path, document, again)
                continue
            named[key] = document.line
            manifest.resources.append(resource)
            manifest.notices.extend(
                _located(manifest.path, document, notice) for notice in resource.notices()
            )
    except YamlError as error:
        yield f"{manifest.path}:{error.line}:{error.column}: {printable(error.message)}"


def _located(path: Path, document: Document, finding: Finding) -> str:
    return f"{path}:{document.line_of(finding.path)}: {line(finding)}"


def _resource(document: Document, manifest: Manifest) -> Resource | None:
    content = document.content
    if not isinstance(content, Mapping):
        raise Rejected(
            [Finding((), f"found {found(content)}, accepted: an object with apiVersion and kind")]
        )
    api_version, kind = content.get("apiVersion"), content.get("kind")
    ours = isinstance(api_version, str) and api_version.split("/")[0] == names.DOMAIN
    if not ours and isinstance(api_version, str) and isinstance(kind, str) and kind not in KINDS:
        _keep_other(document, content, manifest)
        return None
    findings = []
    if api_version != names.API_VERSION:
        text = "missing" if api_version is None else f"found {found(api_version)}"
        findings.append(Finding(("apiVersion",), f"{text}, accepted: {names.API_VERSION!r}"))
    if not isinstance(kind, str) or kind not in KINDS:
        text = "missing" if kind is None else f"found {found(kind)}"
        accepted = " or ".join(map(repr, KINDS))
        findings.append(
            Finding(("kind",), f"{text}, accepted: {accepted}{did_you_mean(kind, KINDS)}")
        )
        raise Rejected(findings)
    try:
        resource = check(KINDS[kind], {**content, "apiVersion": names.API_VERSION})
    except Rejected as rejected:
        raise Rejected([*findings, *rejected.findings]) from None
    if findings:
        raise Rejected(findings)
    return resource


def _keep_other(document: Document, content: Mapping[str, Any], manifest: Manifest) -> None:
    metadata = content.get("metadata")
    name = str(metadata.get("name", "")) if isinstance(metadata, Mapping) else ""
    data = content.get("data")
    if content["kind"] == "ConfigMap" and isinstance(data, Mapping):
        manifest.config_maps[name] = {str(key): str(text) for key, text in data.items()}
    else:
        notice = Finding((), f"{content['kind']} {name!r} is not checked here")
        manifest.notices.append(_located(manifest.path, document, notice))
