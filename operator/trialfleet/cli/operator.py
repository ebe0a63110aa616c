"""``trialfleet operator``."""

import asyncio
import enum
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from trialfleet.api.pods import Resources
from trialfleet.controller import operator as process
from trialfleet.controller.options import IMAGE, POSTGRES_IMAGE, WORKER_IMAGE, OperatorOptions
from trialfleet.model.errors import InvalidInput
from trialfleet.proxy.ports import Address

_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class OperatorLogLevel(enum.StrEnum):
    """Which lines are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"


def operator(
    namespace: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            envvar="TRIALFLEET_NAMESPACE",
            show_envvar=True,
            help="Look after this namespace only; all if absent.",
        ),
    ] = "",
    image: Annotated[
        str,
        typer.Option(
            metavar="IMAGE",
            envvar="TRIALFLEET_IMAGE",
            show_envvar=True,
            help="Image of proxies: this operator's own.",
        ),
    ] = f"{IMAGE}:latest",
    exclude_namespace: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Leave this namespace alone; may be repeated."),
    ] = None,
    worker_image: Annotated[
        str,
        typer.Option(
            metavar="IMAGE",
            envvar="TRIALFLEET_WORKER_IMAGE",
            show_envvar=True,
            help="Image of workers whose template names none.",
        ),
    ] = f"{WORKER_IMAGE}:latest",
    postgres_image: Annotated[
        str,
        typer.Option(
            metavar="IMAGE",
            envvar="TRIALFLEET_POSTGRES_IMAGE",
            show_envvar=True,
            help="Image of PostgreSQL for storages that name none.",
        ),
    ] = POSTGRES_IMAGE,
    worker_resources: Annotated[
        str,
        typer.Option(
            metavar="JSON",
            help="Resources of workers whose template says none, as a container has them.",
        ),
    ] = "{}",
    image_pull_policy: Annotated[
        str,
        typer.Option(
            metavar="POLICY",
            envvar="TRIALFLEET_IMAGE_PULL_POLICY",
            help="For these images: Always, IfNotPresent or Never.",
        ),
    ] = "",
    image_pull_secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Secret to pull these images with; may be repeated."),
    ] = None,
    package_variable: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Environment variable of pip where a study asks for packages, such as "
            "PIP_INDEX_URL; may be repeated.",
        ),
    ] = None,
    package_secret: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Secret, in the studies' namespaces, with more such variables.",
        ),
    ] = "",
    network_policies: Annotated[
        bool, typer.Option(help="Make NetworkPolicies for PostgreSQL and proxies.")
    ] = True,
    metrics_from: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMESPACE",
            help="Whose pods the NetworkPolicies let in to the proxies' metrics, any if absent; "
            "may be repeated.",
        ),
    ] = None,
    home: Annotated[
        str,
        typer.Option(
            metavar="NAMESPACE",
            envvar="POD_NAMESPACE",
            show_envvar=True,
            help="The operator's own namespace, where it keeps its key.",
        ),
    ] = "",
    key_secret: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Secret of the key that passwords are derived from; made if absent.",
        ),
    ] = "trialfleet-operator",
    lease: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Lease in the operator's namespace: of several operators, its holder acts.",
        ),
    ] = "trialfleet-operator",
    lease_duration: Annotated[
        int,
        typer.Option(
            metavar="SECONDS",
            min=3,
            help="Seconds without a sign of the holder after which another takes the Lease.",
        ),
    ] = 12,
    liveness: Annotated[
        str,
        typer.Option(metavar="URL", help="Serve liveness probes: http://0.0.0.0:8080/healthz."),
    ] = "",
    metrics: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Serve Prometheus' metrics; nowhere if absent."),
    ] = "",
    log_level: Annotated[
        OperatorLogLevel, typer.Option(help="Which lines are logged, on standard error.")
    ] = OperatorLogLevel.INFO,
) -> None:
    """Run studies in a cluster: make what they need, watch over it, tell how far they are.

    Logs in as a pod's service account, else by the kubeconfig.
    """
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # They tell of every call of a handler, and of every probe.
    for chatty in ("kopf", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.root.level))
    options = OperatorOptions(
        namespace=namespace,
        excluded=frozenset(exclude_namespace or ()),
        image=image,
        worker_image=worker_image,
        worker_resources=_resources(worker_resources),
        postgres_image=postgres_image,
        image_pull_policy=image_pull_policy,
        image_pull_secrets=tuple(image_pull_secret or ()),
        package_variables=_variables(package_variable or ()),
        package_secret=package_secret,
        network_policies=network_policies,
        metrics_namespaces=tuple(metrics_from or ()),
        home=home or _own_namespace(),
        key_secret=key_secret,
        lease=lease,
        lease_s=lease_duration,
    )
    page = Address.parse(metrics, "metrics") if metrics else None
    asyncio.run(process.run(options, liveness=liveness or None, metrics=page))


def _resources(text: str) -> dict[str, Any]:
    try:
        found = Resources.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(["--worker-resources", *map(str, first["loc"])])
        raise InvalidInput(
            f"{place}: found {text!r} ({first['msg']}), accepted: a container's resources in JSON"
        ) from error
    return found.model_dump(mode="json", by_alias=True, exclude_none=True)


def _variables(texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, is_given, value = text.partition("=")
        if not is_given or not name:
            raise InvalidInput(f"--package-variable: found {text!r}, accepted: NAME=VALUE")
        found[name] = value
    return found


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text().strip()
    except OSError:
        return os.environ.get("TRIALFLEET_NAMESPACE") or "default"
