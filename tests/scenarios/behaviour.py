"""What the operator counts on of an API server: the stand-in and a real one do the same."""

import concurrent.futures
import uuid
from typing import Any

import pytest

from tests.controller.kube import Kube, KubeError, Object, wait_for
from trialfleet import names

OURS, THEIRS = names.OPERATOR, "kubectl-edit"


def config_map(name: str, data: dict[str, str], **metadata: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, **metadata},
        "data": data,
    }


def study(name: str, **spec: Any) -> Object:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "Study",
        "metadata": {"name": name},
        "spec": {
            "objectives": [{"name": "loss", "direction": "minimize"}],
            "budget": {"trials": 1},
            "parallelism": 0,
            "storage": {"name": "none"},
            "objective": {"python": {"source": "def objective(trial): return 1"}},
            **spec,
        },
    }


def fresh() -> str:
    return f"b-{uuid.uuid4().hex[:8]}"


def test_apply_creates_with_what_every_object_has(kube: Kube) -> None:
    made = kube.apply("configmaps", config_map(fresh(), {"a": "1"}), OURS)
    metadata = made["metadata"]
    assert metadata["uid"] and metadata["creationTimestamp"]
    assert int(metadata["resourceVersion"]) > 0
    (entry,) = metadata["managedFields"]
    assert (entry["manager"], entry["operation"]) == (OURS, "Apply")


def test_applying_the_same_changes_nothing(kube: Kube) -> None:
    wanted = config_map(fresh(), {"a": "1"})
    first = kube.apply("configmaps", wanted, OURS)
    again = kube.apply("configmaps", wanted, OURS)
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


def test_what_is_not_applied_any_more_is_removed(kube: Kube) -> None:
    name = fresh()
    kube.apply("configmaps", config_map(name, {"a": "1", "b": "2"}, labels={"x": "y"}), OURS)
    left = kube.apply("configmaps", config_map(name, {"a": "1"}), OURS)
    assert left["data"] == {"a": "1"}
    assert "labels" not in left["metadata"]


def test_of_two_who_replace_the_same_version_one_is_refused(kube: Kube) -> None:
    name = fresh()
    kube.create(
        "leases",
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name},
            "spec": {"holderIdentity": "", "leaseDurationSeconds": 1},
        },
    )
    read = kube.get("leases", name)
    kube.replace("leases", {**read, "spec": {**read["spec"], "holderIdentity": "first"}})
    with pytest.raises(KubeError) as refused:
        kube.replace("leases", {**read, "spec": {**read["spec"], "holderIdentity": "second"}})
    assert (refused.value.code, refused.value.reason) == (409, "Conflict")
    assert kube.get("leases", name)["spec"]["holderIdentity"] == "first"
    kube.delete("leases", name)
    with pytest.raises(KubeError) as gone:
        kube.replace("leases", read)
    assert gone.value.code in (404, 409)


def test_what_others_added_stays(kube: Kube) -> None:
    name = fresh()
    kube.apply("configmaps", config_map(name, {"a": "1"}), OURS)
    kube.patch("configmaps", name, {"data": {"theirs": "2"}})
    kept = kube.apply("configmaps", config_map(name, {"a": "3"}), OURS)
    assert kept["data"] == {"a": "3", "theirs": "2"}


def test_what_others_changed_is_a_conflict_unless_forced(kube: Kube) -> None:
    name = fresh()
    wanted = config_map(name, {"a": "1"})
    kube.apply("configmaps", wanted, OURS)
    kube.patch("configmaps", name, {"data": {"a": "theirs"}})
    with pytest.raises(KubeError) as refused:
        kube.apply("configmaps", wanted, OURS)
    assert (refused.value.code, refused.value.reason) == (409, "Conflict")
    assert kube.apply("configmaps", wanted, OURS, force=True)["data"] == {"a": "1"}


def test_a_selector_is_one_field(kube: Kube) -> None:
    name = fresh()
    wanted = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"a": "1"}, "ports": [{"name": "p", "port": 80, "protocol": "TCP"}]},
    }
    kube.apply("services", wanted, OURS)
    kube.patch("services", name, {"spec": {"selector": {"b": "2"}}})
    mended = kube.apply("services", wanted, OURS, force=True)
    assert mended["spec"]["selector"] == {"a": "1"}
    kube.delete("services", name)


def test_an_apply_may_be_for_a_new_object_only(kube: Kube) -> None:
    """With a version that no object has; what is made is owned as by any apply."""
    name = fresh()
    wanted = config_map(name, {"a": "1", "b": "2"}, resourceVersion="1")
    made = kube.apply("configmaps", wanted, OURS, force=True)
    assert [one["operation"] for one in made["metadata"]["managedFields"]] == ["Apply"]
    with pytest.raises(KubeError) as refused:
        kube.apply("configmaps", wanted, OURS, force=True)
    assert (refused.value.code, refused.value.reason) == (409, "Conflict")
    left = kube.apply("configmaps", config_map(name, {"a": "1"}), OURS)
    assert left["data"] == {"a": "1"}


def test_an_apply_may_name_the_one_it_means(kube: Kube) -> None:
    name, other = fresh(), str(uuid.uuid4())
    with pytest.raises(KubeError) as refused:
        kube.apply("configmaps", config_map(name, {}, uid=other), OURS, force=True)
    assert (refused.value.code, refused.value.reason) == (409, "Conflict")
    assert kube.find("configmaps", name) is None
    made = kube.create("configmaps", config_map(name, {"a": "1"}))
    with pytest.raises(KubeError) as refused:
        kube.apply("configmaps", config_map(name, {"a": "2"}, uid=other), OURS, force=True)
    assert (refused.value.code, refused.value.reason) == (422, "Invalid")
    assert "metadata.uid: Invalid" in str(refused.value)
    mine = config_map(name, {"a": "2"}, uid=made["metadata"]["uid"])
    assert kube.apply("configmaps", mine, OURS, force=True)["data"] == {"a": "2"}


def test_create_says_what_is_there(kube: Kube) -> None:
    made = config_map(fresh(), {})
    kube.create("configmaps", made)
    with pytest.raises(KubeError) as refused:
        kube.create("configmaps", made)
    assert (refused.value.code, refused.value.reason) == (409, "AlreadyExists")


def test_labels_select(kube: Kube) -> None:
    name, label = fresh(), names.LABEL_COMPONENT
    kube.create("configmaps", config_map(name, {}, labels={label: "behaviour"}))
    assert [one["metadata"]["name"] for one in kube.list("configmaps", component="behaviour")] == [
        name
    ]
    assert kube.list("configmaps", component="other") == []
    kube.delete("configmaps", name)


def test_the_status_is_apart_and_leaves_the_generation(kube: Kube) -> None:
    name = fresh()
    made = kube.create("studies", study(name))
    assert made["metadata"]["generation"] == 1
    path = f"apis/{names.API_VERSION}/namespaces/{kube.namespace}/studies/{name}/status"
    body = {
        "apiVersion": names.API_VERSION,
        "kind": "Study",
        "metadata": {"name": name},
        "status": {"phase": "Pending", "progress": "0/1"},
    }
    query = {"fieldManager": OURS, "force": "true"}
    kube.call("PATCH", path, query, body, "application/apply-patch+yaml")
    del body["status"]["progress"]  # type: ignore[attr-defined]
    written = kube.call("PATCH", path, query, body, "application/apply-patch+yaml")
    assert written["metadata"]["generation"] == 1
    assert written["status"]["phase"] == "Pending"
    assert "progress" not in written["status"]
    assert written["spec"]["budget"] == {"trials": 1}
    scaled = kube.patch("studies", name, {"spec": {"replicas": 0}}, "scale")
    assert scaled is not None
    changed = kube.patch("studies", name, {"spec": {"retries": 9}})
    assert changed["metadata"]["generation"] == 2
    kube.delete("studies", name)


def test_a_job_keeps_its_template(kube: Kube) -> None:
    name = fresh()
    job: Object = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "parallelism": 0,
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "worker", "image": "example.invalid/none:1"}],
                },
            },
        },
    }
    live = kube.apply("jobs", job, OURS)
    changed: Object = {**job, "spec": {**live["spec"], "parallelism": 0}}
    changed["spec"].pop("selector", None)
    kube.apply("jobs", changed, OURS, force=True)
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = "example.invalid/other:1"
    with pytest.raises(KubeError) as refused:
        kube.apply("jobs", changed, OURS, force=True)
    assert refused.value.code == 422
    kube.delete("jobs", name, propagationPolicy="Background")


def test_what_is_owned_goes_with_its_owner(kube: Kube) -> None:
    owner = kube.create("configmaps", config_map(fresh(), {}))
    reference = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }
    child = fresh()
    kube.create("configmaps", config_map(child, {}, ownerReferences=[reference]))
    kube.delete("configmaps", owner["metadata"]["name"], propagationPolicy="Background")
    wait_for("gone", lambda: kube.find("configmaps", child) is None, 60)


def test_what_is_made_for_an_owner_that_is_gone_goes_too(kube: Kube) -> None:
    """Who had seen the owner just before it went makes such a thing."""
    owner, name = fresh(), fresh()
    made = kube.create("configmaps", config_map(owner, {}))
    kube.delete("configmaps", owner)
    reference = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": owner,
        "uid": made["metadata"]["uid"],
    }
    kube.create("configmaps", config_map(name, {}, ownerReferences=[reference]))
    wait_for("collected", lambda: kube.find("configmaps", name) is None, 60)


def test_a_pod_that_waits_for_a_secret_goes_with_its_deployment(kube: Kube) -> None:
    """Secrets are deleted in the same moment as the pods that have just begun to want them."""
    name = fresh()
    labels = {names.LABEL_COMPONENT: name}
    key = {"secretKeyRef": {"name": name, "key": "url"}}
    container = {
        "name": "proxy",
        "image": "example.invalid/none:1",
        "command": ["sleep", "600"],
        "env": [{"name": "URL", "valueFrom": key}],
    }
    deployment: Object = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }
    kube.create("deployments", deployment)

    def waits() -> bool:
        states = [
            one["state"]
            for pod in kube.list("pods", component=name)
            for one in pod.get("status", {}).get("containerStatuses", ())
        ]
        return any("waiting" in state for state in states)

    wait_for("a pod that waits", waits, 60)
    kube.delete("deployments", name, propagationPolicy="Background")
    wait_for("no pod", lambda: not kube.list("pods", component=name), 60)


def test_a_stateful_set_is_made_anew_while_its_pod_still_ends(kube: Kube) -> None:
    """The new one is taken at once; its pod waits until the name is free."""
    name = fresh()
    labels = {names.LABEL_COMPONENT: name}
    # Ends at the end of its grace only.
    script = "trap '' TERM; while :; do sleep 0.2; done"
    container = {
        "name": "postgres",
        "image": "example.invalid/none:1",
        "command": ["sh", "-c", script],
    }
    pod_spec = {"terminationGracePeriodSeconds": 3, "containers": [container]}
    wanted: Object = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "serviceName": name,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod_spec},
        },
    }

    def pod_of(owner: Object) -> bool:
        return any(
            reference["uid"] == owner["metadata"]["uid"]
            for pod in kube.list("pods", component=name)
            for reference in pod["metadata"]["ownerReferences"]
            if pod.get("status", {}).get("containerStatuses")
        )

    first = kube.apply("statefulsets", wanted, OURS)
    wait_for("a pod", lambda: pod_of(first), 60)
    kube.delete("statefulsets", name, propagationPolicy="Background")
    second = kube.apply("statefulsets", wanted, OURS)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    wait_for("a pod of the new one", lambda: pod_of(second), 60)
    kube.delete("statefulsets", name, propagationPolicy="Background")
    wait_for("no pod", lambda: not kube.list("pods", component=name), 60)


def test_a_deletion_may_name_the_one_it_means(kube: Kube) -> None:
    name = fresh()
    kube.create("configmaps", config_map(name, {}))
    with pytest.raises(KubeError) as refused:
        kube.delete("configmaps", name, preconditions={"uid": str(uuid.uuid4())})
    assert refused.value.code == 409
    kube.delete("configmaps", name)
    with pytest.raises(KubeError) as refused:
        kube.get("configmaps", name)
    assert (refused.value.code, refused.value.reason) == (404, "NotFound")


def test_a_watch_tells_changes_in_their_order(kube: Kube) -> None:
    """Also that an object which leaves the selection is deleted, to whom watches by it."""
    name, label = fresh(), names.LABEL_COMPONENT
    path = f"api/v1/namespaces/{kube.namespace}/configmaps"
    listed = kube.call("GET", path, {"labelSelector": f"{label}=watched"})
    query = {
        "labelSelector": f"{label}=watched",
        "resourceVersion": listed["metadata"]["resourceVersion"],
        "watch": "true",
        "timeoutSeconds": "30",
    }

    def watch() -> list[tuple[str, str]]:
        told = []
        for event in kube.stream(path, query):
            if event["object"]["metadata"].get("name") == name:
                told.append((event["type"], event["object"].get("data", {}).get("a", "")))
            if len(told) == 4:
                break
        return told

    with concurrent.futures.ThreadPoolExecutor() as pool:
        live = pool.submit(watch)
        kube.create("configmaps", config_map(name, {"a": "1"}, labels={label: "watched"}))
        kube.patch("configmaps", name, {"data": {"a": "2"}})
        kube.patch("configmaps", name, {"metadata": {"labels": {label: "not"}}})
        kube.patch("configmaps", name, {"data": {"a": "3"}})
        kube.patch("configmaps", name, {"metadata": {"labels": {label: "watched"}}})
        late = pool.submit(watch)
        for told in (live.result(40), late.result(40)):
            assert told[:2] == [("ADDED", "1"), ("MODIFIED", "2")]
            assert told[2][0] == "DELETED"
            assert told[3:] == [("ADDED", "3")]
