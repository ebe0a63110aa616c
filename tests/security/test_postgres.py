"""A proxy insists on encryption where its URL or its environment does."""

import asyncio
import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from optuna.study import StudyDirection

from tests.security.encrypting import encrypted
from trialfleet.model import errors
from trialfleet.model.budget import Budget
from trialfleet.storage import Storage
from trialfleet.storage.commands import EnsureStudy
from trialfleet.wire import certificates

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """The certificate of the authority that signed the server's, which lies beside it."""
    made = certificates.make_authority("storage", certificates.derive_key(b"a" * 32), NOW)
    issued = certificates.issue(made, ["localhost"], certificates.derive_key(b"s" * 32), NOW)
    for name, content in (
        ("ca.crt", made.certificate_pem),
        ("server.crt", issued.certificate_pem),
        ("server.key", issued.key_pem),
    ):
        (tmp_path / name).write_bytes(content)
    return tmp_path / "ca.crt"


@pytest.fixture
def secured(database_url: str, authority: Path) -> Iterator[sa.URL]:
    """The URL of a database behind encryption."""
    plain = sa.make_url(database_url)
    folder = authority.parent
    socket = Path(str(plain.query["host"])) / ".s.PGSQL.5432"
    with encrypted(socket, folder / "server.crt", folder / "server.key") as port:
        yield plain.set(host="localhost", port=port, query={})


def text(url: sa.URL, **query: str) -> str:
    return url.update_query_dict(query).render_as_string(hide_password=False)


def test_a_storage_insists_when_its_url_does(
    secured: sa.URL, authority: Path, tmp_path: Path
) -> None:
    async def use(url: str) -> int:
        async with Storage(url) as storage:
            await storage.apply(EnsureStudy("study", [StudyDirection.MINIMIZE], Budget()))
            return len(await storage.studies())

    verified = text(secured, sslmode="verify-full", sslrootcert=str(authority))
    assert asyncio.run(use(verified)) == 1
    other = tmp_path / "other"
    key = certificates.derive_key(b"x" * 32)
    other.write_bytes(certificates.make_authority("storage", key, NOW).certificate_pem)
    with pytest.raises(errors.StorageUnavailable, match="certificate verify failed"):
        asyncio.run(use(text(secured, sslmode="verify-full", sslrootcert=str(other))))
    with pytest.raises(errors.StorageUnavailable, match="does not match"):
        host = secured.set(host="127.0.0.1")
        asyncio.run(use(text(host, sslmode="verify-full", sslrootcert=str(authority))))
    with pytest.raises(errors.StorageUnavailable, match="does not exist"):
        none = str(tmp_path / "none")
        asyncio.run(use(text(secured, sslmode="verify-full", sslrootcert=none)))


def test_a_storage_insists_when_the_environment_does(
    secured: sa.URL, authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a proxy's pod, whose URL comes from a Secret that others wrote."""

    async def mode() -> str:
        async with Storage(text(secured)) as storage:
            with storage._engine.connect() as connection:
                info = connection.connection.driver_connection.info  # type: ignore[union-attr]
                return f"{info.ssl_in_use} {info.dsn_parameters['sslmode']}"

    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", str(authority))
    assert asyncio.run(mode()) == "True verify-full"
    monkeypatch.setenv("PGSSLROOTCERT", str(tmp_path / "none"))
    with pytest.raises(errors.StorageUnavailable, match="does not exist"):
        asyncio.run(mode())
