"""Events of the stand-in's kubelets and controllers."""

import datetime
import os

from tests.controller.standin.objects import Object, Objects, timestamp


def warn(objects: Objects, about: Object, reason: str, message: str) -> None:
    """Write an Event as kubelets and controllers do."""
    metadata = about["metadata"]
    name = f"{metadata['name']}.{os.urandom(6).hex()}"
    objects.create(
        ("events", metadata["namespace"], name),
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name},
            "involvedObject": {
                "kind": about["kind"],
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "reason": reason,
            "message": message,
            "type": "Warning",
            "lastTimestamp": timestamp(datetime.datetime.now(datetime.UTC)),
        },
        "kubelet",
    )
