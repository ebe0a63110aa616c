"""Passwords and keys, all derived from one: nothing that is secret has to be read back.

The operator keeps one random key, in a Secret of its own namespace. What a storage needs is
computed from it and from the storage's name. So a Secret that was deleted comes back as it was,
and in the namespaces of studies the operator needs the right to create Secrets, but not to read.
Pure.
"""

import base64
import hashlib
import hmac


class Keys:
    """Derives from one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def derive(self, purpose: str, *names: str) -> bytes:
        """Return 32 bytes that only who has the key can tell; the same for the same names."""
        text = "\0".join((purpose, *names))
        return hmac.digest(self._key, text.encode(), hashlib.sha256)

    def password(self, purpose: str, *names: str) -> str:
        """Return a password of lower-case letters and digits."""
        return base64.b32encode(self.derive(purpose, *names)).decode().rstrip("=").lower()
