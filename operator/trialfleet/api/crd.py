"""The CustomResourceDefinitions: ``python -m trialfleet.api.crd FOLDER`` writes them."""

import sys
from pathlib import Path
from typing import Any, Final

import yaml

from trialfleet import names
from trialfleet.api.base import Model
from trialfleet.api.crd_schema import Schema, for_cluster, structural_schema
from trialfleet.api.study import Study
from trialfleet.api.study_storage import StudyStorage

Definition = dict[str, Any]

_HEADER: Final = "# Generated from operator/trialfleet/api by 'make crds'; do not edit.\n"

_AGE: Final = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}


def _column(
    name: str, path: str, description: str, kind: str = "string", **more: int
) -> Definition:
    return {"name": name, "type": kind, "jsonPath": path, "description": description, **more}


_STUDY_COLUMNS: Final = [
    _column("Phase", ".status.phase", "One word for the eye"),
    _column("Progress", ".status.progress", "Counted trials of the budget's"),
    _column("Running", ".status.trials.running", "Trials that run now", "integer"),
    _column("Best", ".status.bestValue", "The best trial's value"),
    _column("Parallelism", ".spec.parallelism", "Workers asked for", "integer"),
    _AGE,
    _column("Pruned", ".status.trials.pruned", "Trials given up early", "integer", priority=1),
    _column("Failed", ".status.trials.failed", "Trials that failed", "integer", priority=1),
    _column("Lost", ".status.trials.lost", "Trials whose worker was lost", "integer", priority=1),
    _column("Workers", ".status.workers.ready", "Workers at work", "integer", priority=1),
    _column("Sampler", ".spec.sampler.name", "How parameters are chosen", priority=1),
    _column("Storage", ".status.storage", "The StudyStorage", priority=1),
    _column("Ended", ".status.ended", "Why the study ended", priority=1),
    _column("Message", ".status.message", "What is in the way, or how it ended", priority=1),
]

_STORAGE_COLUMNS: Final = [
    _column("Phase", ".status.phase", "One word for the eye"),
    _column("PostgreSQL", ".status.postgres", "Where PostgreSQL is"),
    _column("Proxies", ".status.proxies", "Ready and desired proxies"),
    _column("Studies", ".status.studies", "Studies that use the storage", "integer"),
    _AGE,
    _column("Placement", ".spec.proxy.placement", "Where proxies run", priority=1),
    _column("Retention", ".spec.retention", "What becomes of the data", priority=1),
    _column("Endpoint", ".status.endpoint", "Host and port of the proxies", priority=1),
    _column("Backup", ".status.lastBackupTime", "Age of the newest dump", "date", priority=1),
    _column("Message", ".status.message", "What is in the way", priority=1),
]


def study_crd() -> Definition:
    """Return the CustomResourceDefinition of Study."""
    scale = {
        "specReplicasPath": ".spec.parallelism",
        "statusReplicasPath": ".status.workers.ready",
        "labelSelectorPath": ".status.selector",
    }
    return _crd(Study, "studies", "study", [], _STUDY_COLUMNS, {"status": {}, "scale": scale})


def study_storage_crd() -> Definition:
    """Return the CustomResourceDefinition of StudyStorage."""
    return _crd(
        StudyStorage,
        "studystorages",
        "studystorage",
        ["tfstorage"],
        _STORAGE_COLUMNS,
        {"status": {}},
    )


def _crd(
    model: type[Model],
    plural: str,
    singular: str,
    short_names: list[str],
    columns: list[Definition],
    subresources: Definition,
) -> Definition:
    kind = model.__name__
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{names.DOMAIN}"},
        "spec": {
            "group": names.DOMAIN,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": singular,
                "categories": ["trialfleet"],
                **({"shortNames": short_names} if short_names else {}),
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": columns,
                    "subresources": subresources,
                    "schema": {"openAPIV3Schema": _root(model)},
                }
            ],
        },
    }


def _root(model: type[Model]) -> Schema:
    schema = for_cluster(structural_schema(model))
    properties = dict(schema["properties"])
    # The API server owns these three and checks them itself.
    properties["apiVersion"] = {"type": "string"}
    properties["kind"] = {"type": "string"}
    properties["metadata"] = {"type": "object"}
    return {**schema, "properties": properties}


class _Dumper(yaml.SafeDumper):
    """Writes equal parts out in full, and long texts as people would."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def render(definition: Definition) -> str:
    """Return a definition as YAML with a line that says where it came from."""
    text: str = yaml.dump(definition, Dumper=_Dumper, sort_keys=False, width=100)
    return _HEADER + text


def write(folder: Path) -> None:
    """Write each definition to a file of the folder, which is made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for definition in (study_crd(), study_storage_crd()):
        plural = definition["spec"]["names"]["plural"]
        path = folder / f"{names.DOMAIN}_{plural}.yaml"
        path.write_text(render(definition), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
