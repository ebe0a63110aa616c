"""Pod templates: open to every field of Kubernetes, with the known parts checked."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from trialfleet.api.base import (
    OPEN,
    DnsLabel,
    DnsSubdomain,
    LabelledMetadata,
    OpenModel,
    Quantity,
    Text,
    broken,
)

_Object = Annotated[dict[str, Any], Field(json_schema_extra=OPEN)]
_Objects = Annotated[list[_Object], Field(max_length=512)]

_BY_NAME: Final[dict[str, Any]] = {
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["name"],
}

_VALUE_FROM: Final = "value and valueFrom exclude each other: leave one out"


class EnvVar(OpenModel):
    """One environment variable."""

    name: Text
    """Name of the variable."""
    value: str | None = None
    """Its value, a string; numbers and booleans need quotes."""
    value_from: _Object | None = None
    """Where the value comes from."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.value and self.value_from is not None:
            raise broken(_VALUE_FROM)
        return self


class VolumeMount(OpenModel):
    """Where a volume appears in a container."""

    name: DnsLabel
    """Name of one of the pod's volumes."""
    mount_path: Text
    """Path in the container."""
    read_only: bool | None = None


class Volume(OpenModel):
    """A volume of a pod; any source of Kubernetes."""

    name: DnsLabel
    """Name for volumeMounts to refer to."""


class Resources(OpenModel):
    """What a container may use and what is set aside for it."""

    limits: Annotated[dict[str, Quantity], Field(max_length=64)] | None = Field(
        default=None, examples=[{"memory": "4Gi", "nvidia.com/gpu": 1}]
    )
    """At most this much."""
    requests: Annotated[dict[str, Quantity], Field(max_length=64)] | None = Field(
        default=None, examples=[{"cpu": "500m", "memory": "4Gi"}]
    )
    """At least this much."""
    claims: _Objects | None = None


class Container(OpenModel):
    """A container of a pod."""

    name: DnsLabel
    """Name, unique in the pod. The one that runs the objective is called `worker`."""
    image: Text | None = None
    """Image; absent in the container `worker`: the operator's worker image."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    command: Annotated[list[str], Field(max_length=256)] | None = None
    args: Annotated[list[str], Field(max_length=256)] | None = None
    working_dir: str | None = None
    env: Annotated[list[EnvVar], Field(max_length=512)] | None = None
    env_from: _Objects | None = None
    resources: Resources | None = None
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=256)] | None = None
    volume_devices: _Objects | None = None
    ports: _Objects | None = None
    lifecycle: _Object | None = None
    liveness_probe: _Object | None = None
    readiness_probe: _Object | None = None
    startup_probe: _Object | None = None
    restart_policy: str | None = None
    resize_policy: _Objects | None = None
    security_context: _Object | None = None
    stdin: bool | None = None
    tty: bool | None = None
    termination_message_path: str | None = None
    termination_message_policy: str | None = None


class PodSpec(OpenModel):
    """A pod, as in Kubernetes."""

    containers: (
        Annotated[list[Container], Field(max_length=64, json_schema_extra=_BY_NAME)] | None
    ) = None
    """The pod's containers; the one called `worker` runs the objective."""
    init_containers: (
        Annotated[list[Container], Field(max_length=64, json_schema_extra=_BY_NAME)] | None
    ) = None
    volumes: Annotated[list[Volume], Field(max_length=256)] | None = None
    restart_policy: Literal["Never", "OnFailure"] | None = None
    node_selector: dict[str, str] | None = None
    affinity: _Object | None = None
    tolerations: _Objects | None = None
    topology_spread_constraints: _Objects | None = None
    scheduler_name: str | None = None
    scheduling_gates: _Objects | None = None
    priority_class_name: DnsSubdomain | None = None
    runtime_class_name: DnsSubdomain | None = None
    service_account_name: DnsSubdomain | None = None
    automount_service_account_token: bool | None = None
    image_pull_secrets: _Objects | None = None
    security_context: _Object | None = None
    termination_grace_period_seconds: Annotated[int, Field(ge=0)] | None = None
    active_deadline_seconds: Annotated[int, Field(ge=1)] | None = None
    node_name: str | None = None
    host_network: bool | None = Field(default=None, alias="hostNetwork")
    host_ipc: bool | None = Field(default=None, alias="hostIPC")
    host_pid: bool | None = Field(default=None, alias="hostPID")
    host_users: bool | None = None
    hostname: str | None = None
    subdomain: str | None = None
    host_aliases: _Objects | None = None
    dns_policy: str | None = None
    dns_config: _Object | None = None
    enable_service_links: bool | None = None
    share_process_namespace: bool | None = None
    preemption_policy: str | None = None
    resource_claims: _Objects | None = None
    resources: Resources | None = None
    overhead: dict[str, Quantity] | None = None
    os: _Object | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        seen = set[str]()
        for container in [*(self.init_containers or ()), *(self.containers or ())]:
            if container.name in seen:
                raise broken(f"found two containers {container.name!r}, accepted: unique names")
            seen.add(container.name)
        volumes = {volume.name for volume in self.volumes or ()}
        for container in [*(self.init_containers or ()), *(self.containers or ())]:
            for mount in container.volume_mounts or ():
                if mount.name not in volumes:
                    raise broken(
                        f"found a volumeMount of {mount.name!r} in container {container.name!r}, "
                        f"accepted: {', '.join(sorted(volumes)) or 'none, as volumes is empty'}"
                    )
        return self


class PodTemplate(OpenModel):
    """A pod template, as in Kubernetes' PodTemplateSpec; fields beyond the known are kept."""

    metadata: LabelledMetadata | None = None
    """Labels and annotations of the pods."""
    spec: PodSpec = PodSpec()
    """The pod's own spec."""


class RunOncePodSpec(PodSpec):
    """A pod that runs once; its containers say what."""

    containers: Annotated[
        list[Container], Field(min_length=1, max_length=64, json_schema_extra=_BY_NAME)
    ]
    """The pod's containers."""


class RunOncePodTemplate(OpenModel):
    """A pod template, as in Kubernetes' PodTemplateSpec; fields beyond the known are kept."""

    metadata: LabelledMetadata | None = None
    """Labels and annotations of the pod."""
    spec: RunOncePodSpec
    """The pod's own spec."""
