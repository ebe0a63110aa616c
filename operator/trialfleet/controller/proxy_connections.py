"""The operator's connections to the proxies of storages, for what only they know or can do."""

import datetime
from collections.abc import Callable, Mapping
from typing import Any, Final

from trialfleet import names
from trialfleet.client.study_calls import Studies
from trialfleet.controller.build import access
from trialfleet.controller.observe import proxy_pods, token_key, uses_tls
from trialfleet.controller.secrecy import Keys
from trialfleet.controller.store import Key, Store
from trialfleet.wire import tokens
from trialfleet.wire.connection import Connection
from trialfleet.wire.credentials import Credentials

_CALL_S: Final = 5.0
"""Deadline of a call to a proxy: each answers in milliseconds, or not at all."""


class Proxies:
    """Of all storages; on one event loop."""

    def __init__(self, store: Store, keys: Keys, check: Callable[[], None]) -> None:
        """``check`` is called before the connections to proxies are given out."""
        self._store = store
        self._keys = keys
        self._check = check
        self._studies: dict[Key, Studies] = {}
        self._token_keys: dict[Key, int] = {}

    async def of(self, namespace: str, storage: str) -> Studies:
        """Return the calls to the proxies of a storage that are ready now."""
        key = Key("StudyStorage", namespace, storage)
        obj = self._store.get(*key)
        encrypted = obj is not None and uses_tls(obj)
        number = 1 if obj is None else token_key(obj)
        studies = self._studies.get(key)
        if studies is not None:
            known = studies.connection
            changed = (known.credentials.authorities is not None) != encrypted
            if changed or self._token_keys[key] != number:
                await known.close()
                studies = None
        if studies is None:
            credentials = self._credentials(obj) if encrypted and obj else Credentials()
            # Each proxy is tried once: whoever asks looks again.
            studies = Studies(Connection((), 0.0, credentials), _CALL_S)
            self._studies[key], self._token_keys[key] = studies, number
        pods = proxy_pods(self._store, namespace, storage)
        serving = [f"{pod.address}:{names.PROXY_PORT}" for pod in pods if pod.ready]
        await studies.connection.use(serving)
        self._check()
        return studies

    async def why_not(self, key: Key) -> str:
        """Return what a proxy says is wrong, while none is ready; empty if none says anything."""
        pods = proxy_pods(self._store, key.namespace, key.name)
        if any(pod.ready for pod in pods):
            return ""
        studies = await self.of(key.namespace, key.name)
        for pod in pods:
            if pod.running:
                said = await studies.why_not(f"{pod.address}:{names.PROXY_PORT}")
                if said:
                    return said
        return ""

    async def forget(self, key: Key) -> None:
        """Close the connections to a storage that is gone."""
        studies = self._studies.pop(key, None)
        if studies is not None:
            await studies.connection.close()

    async def close(self) -> None:
        """Close all connections."""
        for studies in self._studies.values():
            await studies.connection.close()

    def _credentials(self, obj: Mapping[str, Any]) -> Credentials:
        """Return by what the proxies of a storage are known, and what opens all of its studies."""
        where = access.StorageNames(obj["metadata"]["namespace"], obj["metadata"]["name"])
        now = datetime.datetime.now(datetime.UTC)
        return Credentials(
            authorities=access.authority(self._keys, where, now).certificate_pem,
            # They are called by their pods' addresses.
            server_name=access.server_name(where),
            token=tokens.for_admin(access.token_key(self._keys, where, token_key(obj))),
        )
