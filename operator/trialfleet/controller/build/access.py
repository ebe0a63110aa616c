"""Who may talk to whom: the Secrets of a storage and of its studies.

A Secret is named after what it holds and never changes: what uses it names another one when
something else is to be held, and is rolled out like any change.
"""

import datetime
from dataclasses import dataclass
from typing import Final

from trialfleet import names, tokens
from trialfleet.api.study_storage import StudyStorageSpec
from trialfleet.controller.build.certificates import (
    RENEWED,
    Certificate,
    make_authority,
    make_server,
    period,
)
from trialfleet.controller.build.objects import Object, Owner, digest
from trialfleet.controller.secrecy import Keys

PASSWORD: Final = "password"
URL: Final = "url"
CA: Final = "ca.crt"
TLS_CERTIFICATE: Final = "tls.crt"
TLS_KEY: Final = "tls.key"
POSTGRES_CERTIFICATE: Final = "postgres.crt"
POSTGRES_KEY: Final = "postgres.key"
TOKEN_KEY: Final = "token.key"
TOKEN: Final = "token"

FOLDER: Final = "/run/trialfleet"
"""Where pods have what they need of a Secret."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Which storage: its name, and since when there is one of that name."""

    name: str
    namespace: str
    created: datetime.datetime


def token_key(keys: Keys, storage: str, namespace: str) -> str:
    """Return the key that a storage's proxies check tokens with."""
    return keys.derive("tokens", namespace, storage).hex()


def authority(keys: Keys, storage: Storage) -> Certificate:
    """Return the authority of a storage."""
    secret = keys.derive("authority", storage.namespace, storage.name)
    return make_authority(secret, f"{storage.namespace}/{storage.name}", storage.created)


def storage_secret_name(
    keys: Keys, storage: Storage, spec: StudyStorageSpec, now: datetime.datetime
) -> str:
    """Return the name of a storage's Secret: another one for each that would hold something else."""
    held = [
        keys.derive("identity", storage.namespace, storage.name).hex(),
        spec.postgres.managed is not None,
        spec.security.tls,
        period(storage.created, now) if spec.security.tls else 0,
    ]
    return names.storage_secret(storage.name, digest(held)[:8])


def build_storage_secret(
    owner: Owner, keys: Keys, storage: Storage, spec: StudyStorageSpec, now: datetime.datetime
) -> Object:
    """Return the Secret for a storage's PostgreSQL and proxies."""
    data: dict[str, str] = {}
    if spec.postgres.managed is not None:
        password = keys.password("postgres", storage.namespace, storage.name)
        data |= {PASSWORD: password, URL: _url(storage, password, tls=spec.security.tls)}
    if spec.security.tls:
        data |= _storage_certificates(keys, storage, spec, now)
    return _secret(owner, storage_secret_name(keys, storage, spec, now), data)


def access_secret_name(keys: Keys, study: str, storage: Storage) -> str:
    """Return the name of the Secret by which the pods of a study reach its storage."""
    held = [keys.derive("identity", storage.namespace, storage.name).hex(), storage.name]
    return names.access_secret(study, digest(held)[:8])


def build_access_secret(owner: Owner, keys: Keys, storage: Storage) -> Object:
    """Return the Secret with a study's token, and the authority to know the proxies by."""
    key = token_key(keys, storage.name, storage.namespace)
    data = {
        TOKEN: tokens.for_study(key, owner.name),
        CA: authority(keys, storage).certificate,
    }
    return _secret(owner, access_secret_name(keys, owner.name, storage), data)


def host_names(service: str, namespace: str) -> list[str]:
    """Return the names of a Service, the one that is used first."""
    return [
        f"{service}.{namespace}.svc",
        service,
        f"{service}.{namespace}",
        f"{service}.{namespace}.svc.cluster.local",
    ]


def needs_secret(spec: StudyStorageSpec) -> bool:
    """Whether a storage has a Secret of ours."""
    return spec.security.tls or spec.postgres.managed is not None


def _storage_certificates(
    keys: Keys, storage: Storage, spec: StudyStorageSpec, now: datetime.datetime
) -> dict[str, str]:
    place = (storage.namespace, storage.name)
    begin = storage.created + period(storage.created, now) * RENEWED
    signer = authority(keys, storage)
    proxies = [
        host
        for service in (names.proxy_service(storage.name), names.node_proxy_service(storage.name))
        for host in host_names(service, storage.namespace)
    ]
    server = make_server(signer, keys.derive("proxy", *place), proxies, begin)
    data = {
        CA: signer.certificate,
        TLS_CERTIFICATE: server.certificate,
        TLS_KEY: server.key,
        TOKEN_KEY: token_key(keys, storage.name, storage.namespace),
    }
    if spec.postgres.managed is not None:
        hosts = host_names(names.postgres_service(storage.name), storage.namespace)
        database = make_server(signer, keys.derive("postgres-tls", *place), hosts, begin)
        data |= {POSTGRES_CERTIFICATE: database.certificate, POSTGRES_KEY: database.key}
    return data


def _url(storage: Storage, password: str, *, tls: bool) -> str:
    host = f"{names.postgres_service(storage.name)}.{storage.namespace}.svc"
    url = f"postgresql+psycopg2://{names.APP}:{password}@{host}:{names.POSTGRES_PORT}/{names.APP}"
    return f"{url}?sslmode=verify-full&sslrootcert={FOLDER}/{CA}" if tls else url


def _secret(owner: Owner, name: str, data: dict[str, str]) -> Object:
    component = names.COMPONENT_PROXY if owner.kind == "StudyStorage" else names.COMPONENT_STUDY
    return owner.make(
        "v1", "Secret", name, component, type="Opaque", immutable=True, stringData=data
    )
