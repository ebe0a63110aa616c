"""What the chart makes, with several files of values."""

import json
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from tests.chart.rendering import (
    CHART,
    ROOT,
    VALUES,
    of_kind,
    only,
    read_values,
    render,
    render_texts,
)
from trialfleet import names

# The oldest that the chart accepts, and the newest.
VERSIONS = ("1.31", "1.36")

# Objects of others' kinds, for which there are no schemas.
OTHERS = {"PodMonitor"}

every_file = pytest.mark.parametrize(
    "path", [None, *VALUES], ids=lambda path: "defaults" if path is None else path.stem
)


def test_helm_has_nothing_to_object() -> None:
    for path in (None, *VALUES):
        found = helm_python.lint(str(CHART), read_values(path), strict=True)
        serious = [one for one in found["messages"] if one["severity"] > 1]
        assert (serious, found["errors"]) == ([], [])


@every_file
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(path: Path | None, version: str) -> None:
    objects = render(read_values(path))
    assert objects
    for obj in objects:
        if obj["kind"] not in OTHERS:
            kubernetes_validate.validate(obj, version, strict=True)


@every_file
def test_every_object_is_named_once_and_labelled(path: Path | None) -> None:
    objects = render(read_values(path), name="r")
    assert len({(obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"])
                for obj in objects}) == len(objects)  # fmt: skip
    for obj in objects:
        labels = obj["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "r"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        # Else the operator would take it for a study's.
        assert names.LABEL_COMPONENT not in labels


@every_file
def test_pods_pass_pod_security_restricted(path: Path | None) -> None:
    for deployment in of_kind(render(read_values(path)), "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert {kind for volume in pod["volumes"] for kind in volume} <= {"name", "emptyDir"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_a_release_in_one_namespace_is_nowhere_else() -> None:
    objects = render({"scope": "Namespace", "crds": {"install": False}}, namespace="team")
    assert {obj["metadata"].get("namespace") for obj in objects} == {"team"}
    assert not list(of_kind(objects, "ClusterRole", "ClusterRoleBinding"))
    args = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--namespace=team" in args


def test_images_are_named_by_digest_where_one_is_given() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    objects = render({"image": {"digest": digest}, "workerImage": {"tag": "2"}})
    container = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    image = f"trialfleet/operator:0.1.0@{digest}"
    assert container["image"] == image
    assert f"--image={image}" in container["args"]
    assert "--worker-image=trialfleet/worker:2" in container["args"]
    assert "--postgres-image=docker.io/library/postgres:18" in container["args"]


def test_one_value_names_the_registry_of_all_images() -> None:
    digest = f"sha256:{'0' * 64}"
    values = {
        "registry": "registry.local:5000/mirror",
        "workerImage": {"repository": "localhost/mine/worker"},
        "postgresImage": {"tag": "18.1", "digest": digest},
    }
    (container,) = only(render(values), "Deployment")["spec"]["template"]["spec"]["containers"]
    here = "registry.local:5000/mirror"
    assert container["image"] == f"{here}/trialfleet/operator:0.1.0"
    images = [one for one in container["args"] if "-image=" in one]
    assert images == [
        f"--image={here}/trialfleet/operator:0.1.0",
        f"--worker-image={here}/mine/worker:0.1.0",
        f"--postgres-image={here}/library/postgres:18.1@{digest}",
    ]


def test_the_operator_may_be_reached_by_no_one_and_is_let_in_by_proxies() -> None:
    objects = render({})
    policy = only(objects, "NetworkPolicy")["spec"]
    assert (policy["ingress"], policy["policyTypes"]) == ([], ["Ingress", "Egress"])
    pod = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= pod.items()
    # What the policies of storages look for.
    assert pod[names.LABEL_APP] == names.OPERATOR
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {
        *(443, 6443, 53, names.PROXY_PORT)
    }


def test_definitions_are_the_generated_ones_and_are_kept() -> None:
    made = {obj["metadata"]["name"]: obj for obj in of_kind(render({}), "CustomResourceDefinition")}
    files = sorted((ROOT / "crds").glob("*.yaml"))
    assert len(made) == len(files) == 2
    for file in files:
        wanted = yaml.safe_load(file.read_text(encoding="utf-8"))
        crd = made[wanted["metadata"]["name"]]
        assert crd["spec"] == wanted["spec"]
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    for obj in of_kind(render({"crds": {"keep": False}}), "CustomResourceDefinition"):
        assert "annotations" not in obj["metadata"]


def test_proxies_are_watched_by_the_port_that_the_operator_names() -> None:
    objects = render({"metrics": {"podMonitor": {"enabled": True}}})
    proxies, operator = of_kind(objects, "PodMonitor")
    spec = proxies["spec"]
    assert spec["selector"]["matchLabels"] == {names.LABEL_COMPONENT: names.COMPONENT_PROXY}
    assert spec["namespaceSelector"] == {"any": True}
    assert spec["podMetricsEndpoints"] == [{"port": "metrics", "interval": "30s"}]
    deployment = only(objects, "Deployment")["spec"]
    assert operator["spec"]["selector"] == deployment["selector"]
    assert operator["spec"]["podMetricsEndpoints"] == spec["podMetricsEndpoints"]
    (container,) = deployment["template"]["spec"]["containers"]
    assert f"--metrics=0.0.0.0:{names.METRICS_PORT}" in container["args"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["metrics"] == names.METRICS_PORT


def test_notes_name_the_next_command() -> None:
    notes = render_texts({"scope": "Namespace"}, "trialfleet", "team")["NOTES.txt"]
    assert "kubectl -n team rollout status deployment/trialfleet\n" in notes
    assert "kubectl -n team apply -f examples/quickstart/study.yaml\n" in notes
    assert "crds/" not in notes
    assert (
        "apply --server-side -f crds/"
        in render_texts({"crds": {"install": False}}, "trialfleet", "team")["NOTES.txt"]
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"scope": "Everywhere"}, "/scope"),
        ({"imagePullSecret": ["a"]}, "imagePullSecret"),
        ({"replicas": "1"}, "/replicas"),
        ({"image": {"tag": "a b"}}, "/image/tag"),
        ({"image": {"tag": 1.2}}, "/image/tag"),
        ({"networkPolicy": {"apiServerPorts": []}}, "/networkPolicy/apiServerPorts"),
        ({"serviceAccount": {"create": False}}, "serviceAccount.name: needed"),
        (
            {"scope": "Namespace", "networkPolicy": {"studyNamespaces": ["other"]}},
            'found "other", accepted with scope Namespace: the release\'s, "team"',
        ),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(helm_python.HelmError) as raised:
        render(values)
    assert said in str(raised.value)


def test_the_schema_knows_every_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert schema["properties"].keys() - {"global"} == values.keys()
    for key, value in values.items():
        properties = schema["properties"][key].get("properties")
        if (
            properties is not None
            and isinstance(value, dict)
            and key not in ("resources", "workerResources", "affinity")
        ):
            assert properties.keys() == value.keys(), key


def test_namespaces_that_are_left_alone() -> None:
    def excluded(values: dict[str, Any]) -> list[str]:
        (container,) = only(render(values), "Deployment")["spec"]["template"]["spec"]["containers"]
        return [one for one in container["args"] if one.startswith("--exclude-namespace")]

    assert "--exclude-namespace=kube-system" in excluded({})
    assert excluded({"excludedNamespaces": ["a"]}) == ["--exclude-namespace=a"]
    assert excluded({"scope": "Namespace"}) == []


def test_what_workers_may_use() -> None:
    def given(values: dict[str, Any]) -> list[Any]:
        (container,) = only(render(values), "Deployment")["spec"]["template"]["spec"]["containers"]
        return [
            json.loads(one.partition("=")[2])
            for one in container["args"]
            if one.startswith("--worker-resources=")
        ]

    assert given({}) == [{"requests": {"cpu": "100m", "memory": "256Mi"}}]
    limits = {"requests": None, "limits": {"memory": "1Gi"}}
    assert given({"workerResources": limits}) == [{"limits": {"memory": "1Gi"}}]
    assert given({"workerResources": None}) == []
