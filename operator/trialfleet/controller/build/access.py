"""Who may talk to whom: the Secrets of a storage and of its studies.

A Secret is named after what it holds and never changes: what uses it names another one when
something else is to be held, and is rolled out like any change.
"""

import datetime
from typing import Final, NamedTuple

from trialfleet import names
from trialfleet.api.study_storage import StudyStorageSpec
from trialfleet.controller.secrecy import Keys
from trialfleet.kube.objects import Object, Owner, digest
from trialfleet.wire import certificates, tokens
from trialfleet.wire.certificates import Authority

PASSWORD: Final = "password"
URL: Final = "url"
CA: Final = names.ACCESS_CA
TLS_CERTIFICATE: Final = "tls.crt"
TLS_KEY: Final = "tls.key"
POSTGRES_CERTIFICATE: Final = "postgres.crt"
POSTGRES_KEY: Final = "postgres.key"
POSTGRES_RULES: Final = "pg_hba.conf"
TOKEN_KEY: Final = "token.key"
TOKEN: Final = names.ACCESS_TOKEN

TOKENS_WITH_UID: Final = "uid"

FOLDER: Final = "/run/trialfleet"
"""Where pods have what they need of a Secret."""


class StorageNames(NamedTuple):
    """Which storage: by its place, so that it is the same when it was deleted and made again."""

    namespace: str
    name: str


def token_key(keys: Keys, storage: StorageNames, number: int) -> str:
    """Return a key that a storage's proxies check tokens with."""
    purpose = "tokens" if number == 1 else f"tokens {number}"
    return keys.derive(purpose, *storage).hex()


def authority(keys: Keys, storage: StorageNames, now: datetime.datetime) -> Authority:
    """Return the authority of a storage."""
    key = certificates.derive_key(keys.derive("authority", *storage))
    return certificates.make_authority("/".join(storage), key, now)


def server_name(storage: StorageNames) -> str:
    """Return a name that is in the certificates of all proxies of a storage."""
    return names.proxy_host(storage.name, storage.namespace)


def build_storage_secret(
    owner: Owner, keys: Keys, storage: StorageNames, spec: StudyStorageSpec, now: datetime.datetime
) -> Object | None:
    """Return the Secret for a storage's PostgreSQL and proxies; None if they need none."""
    data: dict[str, str] = {}
    if spec.postgres.managed is not None:
        password = keys.password("postgres", *storage)
        data |= {
            PASSWORD: password,
            URL: _url(storage, password, tls=spec.security.tls),
            POSTGRES_RULES: _rules(tls=spec.security.tls),
        }
    if spec.security.tls:
        data |= _certificates(keys, storage, spec, now)
    if not data:
        return None
    return _secret(owner, names.storage_secret(storage.name, digest(data)[:8]), data)


def access_secret_name(keys: Keys, study: str, uid: str, storage: StorageNames, number: int) -> str:
    """Return the name of the Secret by which the pods of a study reach its storage.

    Without a uid that of release 0.1.0, whose token bears none.
    """
    identity = keys.derive("identity", *storage).hex()
    key = [] if number == 1 else [number]
    return names.access_secret(study, digest([identity, study, *key, *([uid] if uid else [])])[:8])


def build_access_secret(
    owner: Owner,
    keys: Keys,
    uid: str,
    storage: StorageNames,
    number: int,
    now: datetime.datetime,
) -> Object:
    """Return the Secret with a study's token, and the authority to know the proxies by.

    The token bears the uid, if there is one, and is made with the storage's key of that number.
    """
    data = {
        TOKEN: tokens.for_study(token_key(keys, storage, number), owner.name, uid),
        CA: authority(keys, storage, now).certificate_pem.decode(),
    }
    return _secret(owner, access_secret_name(keys, owner.name, uid, storage, number), data)


def _certificates(
    keys: Keys, storage: StorageNames, spec: StudyStorageSpec, now: datetime.datetime
) -> dict[str, str]:
    signer = authority(keys, storage, now)

    def issue(purpose: str, *services: str) -> tuple[str, str]:
        hosts = [
            host
            for service in services
            for host in certificates.service_hosts(service, storage.namespace)
        ]
        # For kubectl port-forward.
        hosts.append("localhost")
        key = certificates.derive_key(keys.derive(purpose, *storage))
        issued = certificates.issue(signer, hosts, key, now)
        return issued.certificate_pem.decode(), issued.key_pem.decode()

    services = names.proxy_service(storage.name), names.node_proxy_service(storage.name)
    certificate, key = issue("proxy", *services)
    data = {
        CA: signer.certificate_pem.decode(),
        TLS_CERTIFICATE: certificate,
        TLS_KEY: key,
        TOKEN_KEY: "\n".join(
            token_key(keys, storage, number) for number in spec.security.token_keys
        ),
    }
    if spec.postgres.managed is not None:
        certificate, key = issue("postgres-server", names.postgres_service(storage.name))
        data |= {POSTGRES_CERTIFICATE: certificate, POSTGRES_KEY: key}
    return data


def _rules(*, tls: bool) -> str:
    """Return who may connect to PostgreSQL, and how: from outside of its pod by a password."""
    kind = "hostssl" if tls else "host"
    return f"local all all trust\n{kind} all all all scram-sha-256\n"


def _url(storage: StorageNames, password: str, *, tls: bool) -> str:
    host = f"{names.postgres_service(storage.name)}.{storage.namespace}.svc"
    url = f"postgresql+psycopg2://{names.APP}:{password}@{host}:{names.POSTGRES_PORT}/{names.APP}"
    return f"{url}?sslmode=verify-full&sslrootcert={FOLDER}/{CA}" if tls else url


def _secret(owner: Owner, name: str, data: dict[str, str]) -> Object:
    component = names.COMPONENT_PROXY if owner.kind == "StudyStorage" else names.COMPONENT_STUDY
    return owner.make(
        "v1", "Secret", name, component, type="Opaque", immutable=True, stringData=data
    )
