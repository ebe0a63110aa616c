"""``trialfleet enqueue``: points to run next."""

import json
from typing import Annotated, Any

import typer

from trialfleet.cli.credential_options import CaFileOption, TokenFileOption
from trialfleet.cli.sources import (
    ContextOption,
    DataOption,
    NamedStudyArgument,
    NamespaceOption,
    ProxyOption,
    StorageOption,
    Where,
)
from trialfleet.client import FleetStorage
from trialfleet.model import errors


def enqueue(
    study: NamedStudyArgument,
    point: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=VALUE...",
            help="Parameters of the trial; those that are left out are sampled. A value is JSON, "
            "or a text.",
        ),
    ],
    data: DataOption = None,
    storage: StorageOption = None,
    proxy: ProxyOption = None,
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Add a trial with given parameters, which the next free worker runs."""
    from trialfleet.cluster.steer import check_point

    params = _parse(point)
    where = Where(data, storage, proxy, token_file, ca_file, namespace, context)
    with where.open_study(study) as found:
        check_point(found, params)
        storage_of = found._storage
        # A trial that waits in a study that has ended would never be run.
        ended = ""
        if isinstance(storage_of, FleetStorage):
            ended = storage_of.summary(found._study_id).ended
        if ended:
            raise errors.InvalidInput(
                f"{study}: the study has ended ({ended}), accepted: one that goes on, as with a "
                "larger budget"
            )
        found.enqueue_trial(params)
    print(f"{study}: a trial waits with {json.dumps(params)}")


def _parse(point: list[str]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for part in point:
        name, equals, text = part.partition("=")
        if not (equals and name):
            raise errors.InvalidInput(f"NAME=VALUE: found {part!r}, accepted: such as lr=0.1")
        if name in params:
            raise errors.InvalidInput(f"{name}: found twice, accepted: one value")
        try:
            params[name] = json.loads(text)
        except ValueError:
            params[name] = text
    return params
