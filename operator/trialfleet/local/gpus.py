"""GPUs of local workers: each gets devices of its own, as pods of a cluster do."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from trialfleet import names
from trialfleet.model.errors import InvalidInput

if TYPE_CHECKING:
    from trialfleet.api.study import StudySpec

RESOURCE: Final = "nvidia.com/gpu"
VARIABLE: Final = "CUDA_VISIBLE_DEVICES"
"""CUDA's own: the devices that a process may use, by index or identifier."""

_FIELD: Final = f"spec.template.spec.containers[{names.WORKER_CONTAINER}].resources"

_LISTING_S: Final = 30.0
"""For nvidia-smi to list the devices; a driver that is not loaded yet takes seconds."""

# GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f)
#   MIG 1g.5gb      Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
_LISTED: Final = re.compile(r"^\s*(GPU|MIG) .*\(UUID: ([^)\s]+)\)")


def wanted(spec: "StudySpec") -> int:
    """Return how many devices each worker is to have. Raises ``InvalidInput`` for a fraction."""
    containers = (spec.template and spec.template.spec.containers) or []
    for container in containers:
        resources = container.resources
        if container.name != names.WORKER_CONTAINER or resources is None:
            continue
        for given in (resources.limits, resources.requests):
            if given and RESOURCE in given:
                text = str(given[RESOURCE])
                if not text.isascii() or not text.isdigit():
                    raise InvalidInput(
                        f"{_FIELD}: found {RESOURCE}: {text}, accepted: a whole number"
                    )
                return int(text)
    return 0


def devices(environment: Mapping[str, str]) -> list[str]:
    """Return the devices that may be used: those that the environment allows, else all.

    Instances of a device that is partitioned (MIG) take its place.
    """
    allowed = environment.get(VARIABLE)
    if allowed is not None:
        found = [device.strip() for device in allowed.split(",")]
        # As CUDA reads it: what follows an invalid one is not visible.
        ends = [index for index, device in enumerate(found) if device in ("", "-1")]
        return found[: ends[0]] if ends else found
    try:
        listing = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_LISTING_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_listing(listing)


def parse_listing(listing: str) -> list[str]:
    """Return the identifiers of the devices in the output of ``nvidia-smi -L``."""
    found: list[str] = []
    whole = False
    for line in listing.splitlines():
        match = _LISTED.match(line)
        if match is None:
            continue
        if match[1] == "MIG" and whole:
            found.pop()
        whole = match[1] == "GPU"
        found.append(match[2])
    return found


def assign(count: int, workers: int, found: Sequence[str], *, share: bool) -> list[list[str]]:
    """Return the devices of each worker, ``count`` for each.

    With ``share`` a device may be of several workers, and a worker has fewer where there are
    fewer.

    Raises:
        InvalidInput: There are too few, and they are not to be shared.
    """
    if count * workers <= len(found):
        return [list(found[index * count : (index + 1) * count]) for index in range(workers)]
    if not share:
        several = f"{workers} workers need" if workers > 1 else "one worker needs"
        fewer = len(found) // count
        ways = [f"--parallelism {fewer}"] if fewer else []
        ways.append("--share-gpus" if found else "--share-gpus to run without any")
        raise InvalidInput(
            f"{_FIELD}: {several} {count * workers} GPUs ({RESOURCE}: {count}), found "
            f"{', '.join(found) or 'none'}; accepted: {', or '.join(ways)}"
        )
    each = min(count, len(found))
    return [
        [found[(index * count + place) % len(found)] for place in range(each)]
        for index in range(workers)
    ]
