"""Where the operator keeps the key that everything secret is derived from."""

import base64
import secrets
from typing import Final

from trialfleet.controller.secrecy import Keys
from trialfleet.kube.cluster import Cluster
from trialfleet.kube.kinds import SECRET
from trialfleet.model.errors import InvalidInput

_FIELD: Final = "key"
_BYTES: Final = 32


async def load(cluster: Cluster, namespace: str, name: str) -> Keys:
    """Return the operator's keys; the first operator ever makes the Secret.

    Raises :class:`~trialfleet.model.errors.InvalidInput` if the Secret is another's.
    """
    wanted = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "Opaque",
        "data": {_FIELD: base64.b64encode(secrets.token_bytes(_BYTES)).decode()},
    }
    found = await cluster.get(SECRET, namespace, name)
    if found is None:
        # Of two operators that begin at once, one is told that it is there.
        found = await cluster.create(wanted) or await cluster.get(SECRET, namespace, name)
    key = (found or {}).get("data", {}).get(_FIELD)
    if key is None:
        raise InvalidInput(
            f"--key-secret: found the Secret {namespace}/{name} without data.{_FIELD}, accepted: "
            "one that the operator made"
        )
    return Keys(base64.b64decode(key))
