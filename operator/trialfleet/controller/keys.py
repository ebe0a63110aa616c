"""Passwords and keys, all derived from one: nothing that is secret has to be read back.

The operator keeps one random key, in a Secret of its own namespace. What a storage needs is
computed from it and from the storage's name. So a Secret that was deleted comes back as it was,
and in the namespaces of studies the operator needs the right to create Secrets, but not to read.
"""

import base64
import hashlib
import hmac
import secrets
from typing import Final

from trialfleet.controller.cluster import Cluster
from trialfleet.controller.kinds import SECRET

_FIELD: Final = "key"
_BYTES: Final = 32


class Keys:
    """Derives from one key; pure, but for :meth:`load`."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def derive(self, purpose: str, *names: str) -> bytes:
        """Return 32 bytes that only who has the key can tell; the same for the same names."""
        text = "\0".join((purpose, *names))
        return hmac.digest(self._key, text.encode(), hashlib.sha256)

    def password(self, purpose: str, *names: str) -> str:
        """Return a password of letters and digits."""
        return base64.b32encode(self.derive(purpose, *names)).decode().rstrip("=").lower()


async def load(cluster: Cluster, namespace: str, name: str) -> Keys:
    """Return the operator's keys; the first operator ever makes them."""
    while True:
        found = await cluster.get(SECRET, namespace, name)
        if found is not None and _FIELD in found.get("data", {}):
            return Keys(base64.b64decode(found["data"][_FIELD]))
        made = await cluster.create(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": namespace},
                "type": "Opaque",
                "data": {_FIELD: base64.b64encode(secrets.token_bytes(_BYTES)).decode()},
            }
        )
        if made is None and found is not None:
            raise ValueError(
                f"the Secret {namespace}/{name} has no data.{_FIELD}: delete it, or name another"
            )
