"""The proxies of a storage: one on every node, or shared ones; and the Services over them."""

from typing import Final

from trialfleet import names
from trialfleet.api.study_storage import StudyStorageSpec
from trialfleet.controller.build import access
from trialfleet.controller.build.pod_parts import (
    POD_ADDRESS,
    POD_ADDRESS_VARIABLE,
    SECRET_MOUNT,
    own_container,
    own_pod,
    resources,
    secret_volume,
)
from trialfleet.controller.build.postgres_server import cnpg_trust, url_source
from trialfleet.controller.options import OperatorOptions
from trialfleet.kube.objects import Object, Owner, without_empty

WORKERS_PER_REPLICA: Final = 100

_EVERYWHERE: Final = "0.0.0.0"
"""The pod's address, and localhost, by which ``kubectl port-forward`` comes."""

_IDENTITY: Final = "identity"

_START_S: Final = 600
_START_TRIES: Final = 1_000_000

_STOP_S: Final = 5
"""Beside its grace a proxy that stops needs this to close its connections."""

_UNROUTED_S: Final = 2
"""For so long a proxy that is to stop goes on serving: until no node sends to it any more. A worker
that comes to another one at once has waited for nothing."""


def build_workload(
    owner: Owner, spec: StudyStorageSpec, options: OperatorOptions, *, workers: int, secret: str
) -> Object:
    """Return the DaemonSet, or the Deployment for ``workers`` workers.

    ``secret`` is the name of the storage's.
    """
    template = {
        "metadata": {
            "labels": owner.labels(names.COMPONENT_PROXY),
            "annotations": {names.ANNOTATION_TOKENS: access.TOKENS_WITH_UID},
        },
        "spec": _pod(owner, spec, options, secret),
    }
    common: Object = {"selector": {"matchLabels": selector(owner)}, "template": template}
    if spec.proxy.placement == "Node":
        kind = "DaemonSet"
        # One node after the other: its workers use the others' proxies meanwhile.
        common["updateStrategy"] = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}
    else:
        kind = "Deployment"
        common["replicas"] = replicas(spec, workers)
        common["strategy"] = {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
        }
    return owner.make(
        "apps/v1", kind, names.proxy_name(owner.name), names.COMPONENT_PROXY, spec=common
    )


def replicas(spec: StudyStorageSpec, workers: int) -> int:
    """Return how many shared proxies so many workers need; at least one."""
    each = spec.proxy.workers_per_replica or WORKERS_PER_REPLICA
    return max(1, -(-workers // each))


def build_services(owner: Owner, spec: StudyStorageSpec) -> list[Object]:
    """Return the Service over all proxies, and with one on every node the one for that node's."""
    services = [_service(owner, spec, names.proxy_service(owner.name), {})]
    if spec.proxy.placement == "Node":
        local = {"internalTrafficPolicy": "Local"}
        services.append(_service(owner, spec, names.node_proxy_service(owner.name), local))
    return services


def build_identity(owner: Owner, identity: str) -> Object:
    """Return the ConfigMap by which a proxy that starts knows the database that it is to serve."""
    return owner.make(
        "v1",
        "ConfigMap",
        names.identity_config_name(owner.name),
        names.COMPONENT_PROXY,
        data={_IDENTITY: identity},
    )


def selector(owner: Owner) -> dict[str, str]:
    """Return the labels that tell the pods of a storage's proxies."""
    return {names.LABEL_STORAGE: owner.name, names.LABEL_COMPONENT: names.COMPONENT_PROXY}


def _service(owner: Owner, spec: StudyStorageSpec, name: str, more: Object) -> Object:
    ports = [_service_port("grpc", names.PROXY_PORT)]
    if spec.security.plaintext_port is not None:
        ports.append(_service_port("plaintext", spec.security.plaintext_port))
    return owner.make(
        "v1",
        "Service",
        name,
        names.COMPONENT_PROXY,
        spec={"selector": selector(owner), "ports": ports, **more},
    )


def _service_port(name: str, port: int) -> Object:
    return {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}


def _listening(spec: StudyStorageSpec) -> tuple[list[str], list[Object], int]:
    """Return the arguments and ports by which a proxy is reached, and where its health is asked."""
    args = [f"--listen={_EVERYWHERE}:{names.PROXY_PORT}"]
    ports = {"grpc": names.PROXY_PORT, "metrics": names.METRICS_PORT}
    health = names.PROXY_PORT
    if spec.security.tls:
        health = ports["health"] = names.HEALTH_PORT
        args += [
            f"--tls-cert={access.FOLDER}/{access.TLS_CERTIFICATE}",
            f"--tls-key={access.FOLDER}/{access.TLS_KEY}",
            f"--token-key={access.FOLDER}/{access.TOKEN_KEY}",
            # A kubelet's probe can neither encrypt nor show a token.
            f"--health-listen={POD_ADDRESS}:{health}",
        ]
    if spec.security.plaintext_port is not None:
        ports["plaintext"] = spec.security.plaintext_port
        args.append(f"--plaintext-listen={_EVERYWHERE}:{spec.security.plaintext_port}")
    listed = [
        {"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()
    ]
    return args, listed, health


def _pod(owner: Owner, spec: StudyStorageSpec, options: OperatorOptions, secret: str) -> Object:
    proxy = spec.proxy
    grace_s = int(proxy.grace_period.total_seconds())
    url_secret, url_key = url_source(owner.name, spec, secret)
    listening, ports, health = _listening(spec)
    volumes: list[Object] = [{"name": "tmp", "emptyDir": {}}]
    mounts: list[Object] = [{"name": "tmp", "mountPath": "/tmp"}]
    if spec.security.tls:
        held = (access.CA, access.TLS_CERTIFICATE, access.TLS_KEY, access.TOKEN_KEY)
        volumes.append(secret_volume(secret, held))
        mounts.append(SECRET_MOUNT)
    environment: list[Object] = [
        POD_ADDRESS_VARIABLE,
        {
            # In the pod's template it would replace all proxies as soon as it is known.
            "name": names.ENV_IDENTITY,
            "valueFrom": {
                "configMapKeyRef": {
                    "name": names.identity_config_name(owner.name),
                    "key": _IDENTITY,
                    "optional": True,
                }
            },
        },
        {
            "name": names.ENV_STORAGE_URL,
            "valueFrom": {"secretKeyRef": {"name": url_secret, "key": url_key}},
        },
    ]
    if spec.postgres.cloud_native_pg is not None:
        variables, volume, mount = cnpg_trust(owner.name)
        environment += variables
        volumes.append(volume)
        mounts.append(mount)
    args = [
        "proxy",
        *listening,
        f"--metrics={POD_ADDRESS}:{names.METRICS_PORT}",
        f"--grace={grace_s}",
        "--log-format=json",
    ]
    if spec.accept_data_loss is not None:
        args.append(f"--accept-data-loss={spec.accept_data_loss}")
    container = own_container(
        "proxy",
        args,
        options,
        proxy.image,
        env=environment,
        ports=ports,
        # Answered when it serves the first time, as long as that takes: a probe that fails is a
        # Warning, and a proxy waits for its database without being started again.
        startupProbe={
            "grpc": {"port": health, "service": names.HEALTH_STARTUP},
            "periodSeconds": 1,
            "timeoutSeconds": _START_S,
            "failureThreshold": _START_TRIES,
        },
        livenessProbe={
            "grpc": {"port": health, "service": names.HEALTH_LIVENESS},
            "periodSeconds": 10,
            "timeoutSeconds": 10,
            "failureThreshold": 3,
            # One that does not answer finishes no calls.
            "terminationGracePeriodSeconds": _STOP_S,
        },
        # Serving means: the database answers, and its schema is right.
        readinessProbe={
            "grpc": {"port": health},
            "periodSeconds": 2,
            "timeoutSeconds": 5,
            "failureThreshold": 2,
        },
        lifecycle={"preStop": {"sleep": {"seconds": _UNROUTED_S}}},
        resources=resources(proxy.resources, cpu="100m", memory="512Mi"),
        volumeMounts=mounts,
    )
    tolerations = None if proxy.tolerations is None else list(proxy.tolerations)
    return own_pod(
        [container],
        options,
        terminationGracePeriodSeconds=_UNROUTED_S + grace_s + _STOP_S,
        volumes=volumes,
        **without_empty(
            {
                "nodeSelector": proxy.node_selector,
                "affinity": proxy.affinity,
                "tolerations": tolerations,
                "priorityClassName": proxy.priority_class_name,
            }
        ),
    )
