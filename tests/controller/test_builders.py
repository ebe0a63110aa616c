"""What is built is valid for Kubernetes, and runs under Pod Security ``restricted``."""

import copy
import dataclasses
import json
from typing import Any

import kubernetes_validate
import pytest

from tests.controller.kube import Object
from tests.controller.observations import (
    KEYS,
    NOW,
    OPTIONS,
    PROXIES,
    REACH,
    storage_observed,
    study,
)
from trialfleet import names
from trialfleet.api.manifest import load
from trialfleet.api.study import Study
from trialfleet.controller.build import run_once, worker_job
from trialfleet.controller.build.worker_job import Reach
from trialfleet.controller.storage_plan import plan_storage
from trialfleet.kube.objects import Owner
from trialfleet.model import errors

OWNER = Owner("Study", "q", "ns", "uid-q")
VERSIONS = ("1.30", "1.35")

STORAGES: list[dict[str, Any]] = [
    {},
    {"postgres": {"managed": {"emptyDir": {"sizeLimit": "1Gi"}}}},
    {"postgres": {"managed": {"image": "postgres:18", "volume": {"size": "1Gi"}}}},
    {"postgres": {"external": {"secretRef": {"name": "db"}}}},
    {
        "proxy": {
            "placement": "Shared",
            "nodeSelector": {"a": "b"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "high",
            "resources": {"limits": {"cpu": 1, "memory": "1Gi"}},
        }
    },
]

TEMPLATE: dict[str, Any] = {
    "metadata": {
        "labels": {"team": "a", names.LABEL_QUEUE: "gpus"},
        "annotations": {"note": "x"},
    },
    "spec": {
        "containers": [
            {"name": "sidecar", "image": "s:1"},
            {
                "name": "worker",
                "image": "mine:2",
                "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
                "resources": {"limits": {"nvidia.com/gpu": 1}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            },
        ],
        "initContainers": [{"name": "fetch", "image": "f:1"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "d"}}],
        "nodeSelector": {"gpu": "yes"},
        "terminationGracePeriodSeconds": 120,
        "restartPolicy": "OnFailure",
    },
}


SECURE = Reach("s", PROXIES, "q-access-1")


def job_of(made: Study, parallelism: int = 3, reach: Reach = REACH) -> Object:
    return worker_job.build_job(
        OWNER,
        made,
        index=2,
        parallelism=parallelism,
        reach=reach,
        generation=5,
        options=OPTIONS,
    )


def run_once_jobs() -> list[Object]:
    pods = {"spec": {"containers": [{"name": "main", "image": "i", "command": ["true"]}]}}
    made = study(prepare=pods, collate={"spec": {**pods["spec"], "restartPolicy": "OnFailure"}})
    return [
        run_once.build_prepare(OWNER, made, reach=SECURE, generation=1),
        run_once.build_collate(OWNER, made, reach=SECURE, generation=1, options=OPTIONS),
    ]


INSTALLING: dict[str, Any] = {
    "python": {
        "callable": "a:b",
        "packages": ["scikit-learn==1.7.*"],
        "requirements": {"configMap": {"name": "r", "key": "all.txt"}},
    }
}


def everything() -> list[Object]:
    objects = [
        job_of(study()),
        job_of(study(template=TEMPLATE), reach=SECURE),
        job_of(study(template=TEMPLATE, objective=INSTALLING), reach=SECURE),
        worker_job.build_config(OWNER, study()),
        *run_once_jobs(),
    ]
    for spec in STORAGES:
        plan = plan_storage(storage_observed(spec), OPTIONS, KEYS, NOW)
        objects += [*plan.objects, *plan.once]
    return objects


def names_of(obj: Object) -> str:
    return f"{obj['kind']}-{obj['metadata']['name']}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("obj", everything(), ids=names_of)
def test_valid(obj: Object, version: str) -> None:
    kubernetes_validate.validate(obj, version, strict=True)


@pytest.mark.parametrize("obj", everything(), ids=names_of)
def test_every_object_has_an_owner_and_our_label(obj: Object) -> None:
    metadata = obj["metadata"]
    assert metadata["labels"][names.LABEL_COMPONENT]
    assert len(metadata["name"]) <= 63
    (owner,) = metadata["ownerReferences"]
    assert owner["controller"] and not owner["blockOwnerDeletion"]


def component_of(template: Object) -> str:
    return str(template["metadata"]["labels"][names.LABEL_COMPONENT])


def pods() -> list[Object]:
    return [one["spec"]["template"] for one in everything() if "template" in one.get("spec", {})]


@pytest.mark.parametrize(
    "template", pods(), ids=lambda one: one["metadata"]["labels"][names.LABEL_COMPONENT]
)
def test_restricted(template: Object) -> None:
    """As https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    spec = template["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}


class TestWorkers:
    def test_a_work_queue(self) -> None:
        spec = job_of(study())["spec"]
        assert "completions" not in spec
        assert spec["parallelism"] == 3
        rules = {rule["action"]: rule for rule in spec["podFailurePolicy"]["rules"][1:]}
        assert rules["Ignore"]["onExitCodes"]["values"] == [
            errors.EXIT_DRAINED,
            errors.EXIT_OVERRUN,
        ]
        assert errors.EXIT_OBJECTIVE in rules["FailJob"]["onExitCodes"]["values"]

    def test_the_default_pod(self) -> None:
        (container,) = job_of(study())["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "worker:1"
        assert container["command"] == ["trialfleet"]
        assert container["args"][0] == "worker"
        env = {one["name"]: one for one in container["env"]}
        assert env[names.ENV_PROXY]["value"] == PROXIES
        assert env[names.ENV_WORKER]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"

    def test_the_users_template_is_kept(self) -> None:
        job = job_of(study(template=TEMPLATE))
        template = job["spec"]["template"]
        assert template["metadata"]["labels"]["team"] == "a"
        assert template["metadata"]["annotations"] == {"note": "x"}
        spec = template["spec"]
        assert spec["nodeSelector"] == {"gpu": "yes"}
        assert spec["restartPolicy"] == "Never"
        assert spec["terminationGracePeriodSeconds"] == 120
        sidecar, worker = spec["containers"]
        assert (sidecar["image"], worker["image"]) == ("s:1", "mine:2")
        assert worker["resources"] == {"limits": {"nvidia.com/gpu": 1}}
        assert {"name": "OMP_NUM_THREADS", "value": "1"} in worker["env"]
        assert {"name": "data", "mountPath": "/data"} in worker["volumeMounts"]
        assert "--grace=115" in worker["args"]
        assert spec["initContainers"][0]["name"] == "fetch"

    def test_kueue_finds_its_label_on_the_job(self) -> None:
        assert job_of(study(template=TEMPLATE))["metadata"]["labels"][names.LABEL_QUEUE] == "gpus"

    def test_the_users_command_and_security_win(self) -> None:
        template = {
            "spec": {
                "securityContext": {"runAsUser": 1234},
                "containers": [{"name": "worker", "image": "m", "command": ["run", "me"]}],
            }
        }
        spec = job_of(study(template=template))["spec"]["template"]["spec"]
        assert spec["containers"][0]["command"] == ["run", "me"]
        assert "args" not in spec["containers"][0]
        assert spec["securityContext"]["runAsUser"] == 1234

    def test_a_lost_node_is_not_waited_for(self) -> None:
        spec = job_of(study())["spec"]["template"]["spec"]
        seconds = {one["key"]: one["tolerationSeconds"] for one in spec["tolerations"]}
        assert set(seconds.values()) == {30}
        assert "node.kubernetes.io/unreachable" in seconds

    def test_source_in_a_config_map_becomes_a_file(self, tmp_path: Any) -> None:
        made = study(objective={"python": {"configMap": {"name": "code", "key": "mine.py"}}})
        spec = job_of(made)["spec"]["template"]["spec"]
        (volume,) = [one for one in spec["volumes"] if one["name"] == "trialfleet-study"]
        users = volume["projected"]["sources"][1]["configMap"]
        assert users == {"name": "code", "items": [{"key": "mine.py", "path": "objective.py"}]}
        manifest = tmp_path / "study.json"
        manifest.write_text(worker_job.build_config(OWNER, made)["data"]["study.json"])
        (read,) = load(manifest)
        assert isinstance(read, Study) and read.spec.objective.python is not None
        assert read.spec.objective.python.file == "objective.py"

    def test_the_config_map_is_what_a_worker_reads(self, tmp_path: Any) -> None:
        made = study(
            trials=[{"x": 1}],
            template=TEMPLATE,
            budget={"trials": 9, "trialTimeout": "90s"},
            pruner={"name": "NopPruner"},
        )
        text = worker_job.build_config(OWNER, made)["data"]["study.json"]
        manifest = tmp_path / "study.json"
        manifest.write_text(text)
        (read,) = load(manifest)
        assert isinstance(read, Study)
        assert read.spec.objective == made.spec.objective
        assert read.spec.sampler == made.spec.sampler
        assert read.spec.pruner == made.spec.pruner
        assert read.spec.budget == made.spec.budget
        assert "template" not in json.loads(text)["spec"]


def test_the_password_is_in_the_secret_only() -> None:
    plan = plan_storage(storage_observed(), OPTIONS, KEYS, NOW)
    (secret,) = plan.once
    password = secret["stringData"]["password"]
    assert len(password) >= 32
    assert f":{password}@s-tpg.ns.svc:5432/" in secret["stringData"]["url"]
    assert password not in json.dumps(plan.objects)


class TestPostgres:
    """The official image, by its own entry point."""

    def pod(self, spec: dict[str, Any], **options: Any) -> tuple[Object, Object]:
        """Return the spec of PostgreSQL's pod, and the storage's Secret."""
        given = dataclasses.replace(OPTIONS, **options)
        plan = plan_storage(storage_observed(spec), given, KEYS, NOW)
        (stateful_set,) = [one for one in plan.objects if one["kind"] == "StatefulSet"]
        spec = stateful_set["spec"]["template"]["spec"]
        return spec, plan.once[0]["stringData"]

    def test_is_what_the_operator_was_told_unless_the_storage_names_another(self) -> None:
        spec, _ = self.pod({})
        containers = [*spec["initContainers"], *spec["containers"]]
        assert {one["image"] for one in containers} == {"docker.io/library/postgres:18"}
        here = {"postgres_image": "here/postgres:18", "image_pull_policy": "Never"}
        spec, _ = self.pod({}, **here)
        containers = [*spec["initContainers"], *spec["containers"]]
        assert {one["image"] for one in containers} == {"here/postgres:18"}
        assert {one["imagePullPolicy"] for one in containers} == {"Never"}
        spec, _ = self.pod({"postgres": {"managed": {"image": "mine:1"}}}, **here)
        containers = [*spec["initContainers"], *spec["containers"]]
        assert {one["image"] for one in containers} == {"mine:1"}
        assert not any("imagePullPolicy" in one for one in containers)

    def test_starts_by_its_own_entry_point_as_its_own_user(self) -> None:
        spec, secret = self.pod({})
        (server,) = spec["containers"]
        assert "command" not in server
        assert server["args"][0] == "postgres"
        assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 999
        environment = {one["name"]: one["value"] for one in server["env"]}
        assert environment["POSTGRES_PASSWORD_FILE"] == "/run/trialfleet/password"
        assert secret["password"] not in json.dumps(spec)

    def test_is_reached_encrypted_and_by_the_password_only(self) -> None:
        spec, secret = self.pod({})
        settings = spec["containers"][0]["args"][2::2]
        assert "ssl=on" in settings
        assert "ssl_key_file=/run/trialfleet/postgres.key" in settings
        assert "hba_file=/run/trialfleet/pg_hba.conf" in settings
        assert secret["pg_hba.conf"].splitlines() == [
            "local all all trust",
            "hostssl all all all scram-sha-256",
        ]
        (volume,) = [one["secret"] for one in spec["volumes"] if "secret" in one]
        # A group's key is taken only if it is root's and nobody else's.
        assert volume["defaultMode"] == 0o440
        spec, secret = self.pod({"security": {"tls": False}})
        assert not any("ssl" in one for one in spec["containers"][0]["args"])
        assert "host all all all scram-sha-256" in secret["pg_hba.conf"]


def test_collate_finds_the_results() -> None:
    _, collate = run_once_jobs()
    spec = collate["spec"]["template"]["spec"]
    writer, main = spec["initContainers"][0], spec["containers"][0]
    assert writer["image"] == "operator:1"
    env = {one["name"]: one.get("value") for one in main["env"]}
    assert env[names.ENV_RESULTS] == main["volumeMounts"][-1]["mountPath"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, {"requests": {"cpu": "100m"}}),
        ({}, {"requests": {"cpu": "100m"}}),
        ({"requests": {"cpu": "2"}}, {"requests": {"cpu": "2"}}),
        ({"limits": {"nvidia.com/gpu": "1"}}, {"limits": {"nvidia.com/gpu": "1"}}),
    ],
)
def test_a_worker_that_says_nothing_of_resources_gets_the_operators(
    given: Object | None, found: Object
) -> None:
    container = {"name": "worker"} if given is None else {"name": "worker", "resources": given}
    made = worker_job.build_job(
        Owner("Study", "q", "ns", "uid"),
        study(template={"spec": {"containers": [container, {"name": "other", "image": "x"}]}}),
        index=1,
        parallelism=1,
        reach=REACH,
        generation=1,
        options=dataclasses.replace(OPTIONS, worker_resources={"requests": {"cpu": "100m"}}),
    )
    worker, other = made["spec"]["template"]["spec"]["containers"]
    assert worker["resources"] == found
    assert "resources" not in other


class TestPackages:
    """What a worker's pod has for the packages of its objective."""

    @staticmethod
    def pod(**options: Any) -> Object:
        job = worker_job.build_job(
            OWNER,
            study(template=TEMPLATE, objective=INSTALLING),
            index=1,
            parallelism=1,
            reach=SECURE,
            generation=1,
            options=dataclasses.replace(OPTIONS, **options),
        )
        spec: Object = job["spec"]["template"]["spec"]
        return spec

    def test_they_are_installed_by_the_workers_image_after_what_the_user_has(self) -> None:
        spec = self.pod()
        fetch, install = spec["initContainers"]
        assert (fetch["name"], install["name"]) == ("fetch", names.PACKAGES_CONTAINER)
        assert install["image"] == "mine:2"
        assert install["securityContext"]["readOnlyRootFilesystem"]
        # No GPU is set aside for it.
        assert install["resources"] == {"limits": {}}
        worker = spec["containers"][1]
        (folder,) = (one["value"] for one in worker["env"] if one["name"] == names.ENV_PACKAGES)
        assert f"--link={folder}" in install["args"]
        (mount,) = (one for one in worker["volumeMounts"] if one["name"] == "trialfleet-packages")
        assert folder.startswith(mount["mountPath"])
        assert mount["readOnly"]
        assert "trialfleet-packages" not in str(spec["containers"][0])

    def test_pip_has_the_charts_variables_and_the_workers(self) -> None:
        install = self.pod(package_variables={"PIP_INDEX_URL": "https://i"}, package_secret="pip")[
            "initContainers"
        ][1]
        env = {one["name"]: one.get("value") for one in install["env"]}
        assert env["PIP_INDEX_URL"] == "https://i"
        assert env["OMP_NUM_THREADS"] == "1"
        assert install["envFrom"] == [{"secretRef": {"name": "pip", "optional": True}}]
        template = copy.deepcopy(TEMPLATE)
        own = {"name": "PIP_INDEX_URL", "value": "https://mine"}
        template["spec"]["containers"][1]["env"].append(own)
        job = worker_job.build_job(
            OWNER,
            study(template=template, objective=INSTALLING),
            index=1,
            parallelism=1,
            reach=REACH,
            generation=1,
            options=dataclasses.replace(OPTIONS, package_variables={"PIP_INDEX_URL": "https://i"}),
        )
        install = job["spec"]["template"]["spec"]["initContainers"][1]
        assert [one for one in install["env"] if one["name"] == "PIP_INDEX_URL"] == [own]

    def test_a_volume_of_the_study_keeps_them(self) -> None:
        template = copy.deepcopy(TEMPLATE)
        kept = {"name": "data", "mountPath": names.PACKAGE_CACHE}
        template["spec"]["containers"][1]["volumeMounts"].append(kept)
        job = job_of(study(template=template, objective=INSTALLING))
        install = job["spec"]["template"]["spec"]["initContainers"][1]
        assert kept in install["volumeMounts"]
        assert f"--cache={names.PACKAGE_CACHE}" in install["args"]

    def test_packages_that_exclude_each_other_end_the_job(self) -> None:
        rules = job_of(study(objective=INSTALLING))["spec"]["podFailurePolicy"]["rules"]
        assert rules[-1] == {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": names.PACKAGES_CONTAINER,
                "operator": "In",
                "values": [errors.EXIT_INVALID],
            },
        }

    def test_the_requirements_file_is_beside_the_manifest(self) -> None:
        made = study(objective=INSTALLING)
        python = worker_job.for_workers(made)["spec"]["objective"]["python"]
        assert python["requirements"] == {"file": "requirements.txt"}
        assert python["packages"] == ["scikit-learn==1.7.*"]
        (volume,) = (
            one
            for one in job_of(made)["spec"]["template"]["spec"]["volumes"]
            if one["name"] == "trialfleet-study"
        )
        assert volume["projected"]["sources"][-1] == {
            "configMap": {"name": "r", "items": [{"key": "all.txt", "path": "requirements.txt"}]}
        }
