"""The other end of a copy: a file of SQLite or of Optuna's journal, or a database, by its name."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from trialfleet.model.errors import InvalidInput, SchemaMismatch, StorageUnavailable
from trialfleet.model.study import StudyRecord
from trialfleet.model.trial import TrialRecord
from trialfleet.transfer.copying import Source, Target
from trialfleet.transfer.database import DatabaseTarget, snapshot
from trialfleet.transfer.journal import JournalSource, JournalTarget
from trialfleet.transfer.replay import Spool

_SQLITE: Final = (".db", ".sqlite", ".sqlite3")
_JOURNAL: Final = (".journal", ".jsonl", ".log")
_MAGIC: Final = b"SQLite format 3\0"
_ACCEPTED: Final = (
    f"a file that ends in {', '.join(_SQLITE)} (SQLite) or {', '.join(_JOURNAL)} (Optuna's "
    "journal), or the URL of a database, as sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
)

CONNECT_S: Final = 10
"""For a database to accept a connection."""


@contextlib.contextmanager
def open_source(place: str, option: str) -> Iterator[Source]:
    """Open a file or a database to read studies from.

    Raises ``InvalidInput`` if there is none, ``StorageUnavailable`` if it can't be read, and
    ``SchemaMismatch`` if another version of Optuna made it. ``option`` is for the message.
    """
    with contextlib.ExitStack() as stack:
        with told(place, option):
            source = _open_source(stack, place, option)
        yield ToldSource(source, place, option)


def _open_source(stack: contextlib.ExitStack, place: str, option: str) -> Source:
    found = _locate(place, option)
    file = _file(found)
    if file is not None and not file.is_file():
        raise InvalidInput(f"{option} {place}: no such file")
    if isinstance(found, Path):
        return JournalSource(found, stack.enter_context(contextlib.closing(Spool())))
    engine = stack.enter_context(_engine(found))
    if not sa.inspect(engine).has_table("studies"):
        raise InvalidInput(f"{option} {shown(found)}: no studies in this database")
    _check_revision(found)
    return stack.enter_context(snapshot(engine))


@contextlib.contextmanager
def open_target(place: str, option: str) -> Iterator[Target]:
    """Open a file or a database to write studies to; it is made if it is not there.

    Raises as :func:`open_source`.
    """
    with told(place, option), contextlib.ExitStack() as stack:
        found = _locate(place, option)
        file = _file(found)
        if file is not None and not file.absolute().parent.is_dir():
            raise InvalidInput(f"{option} {place}: no such folder")
        if isinstance(found, Path):
            yield JournalTarget(found)
            return
        _check_revision(found, create=True)
        yield DatabaseTarget(stack.enter_context(_engine(found)))


@contextlib.contextmanager
def told(place: str, option: str) -> Iterator[None]:
    """Tell what goes wrong with a file or a database in one line that names it."""
    name = f"{option} {_shown_text(place)}"
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(f"{name}: {error.strerror or error}") from error
    except StorageInternalError as error:
        raise StorageUnavailable(f"{name}: {_cause(error)}") from error
    except (sa.exc.DataError, sa.exc.IntegrityError) as error:
        raise InvalidInput(f"{name}: can't be stored: {_one_line(error)}") from error
    except sa.exc.SQLAlchemyError as error:
        raise StorageUnavailable(f"{name}: {_one_line(error)}") from error
    except (UnicodeError, ImportError) as error:
        raise InvalidInput(f"{name}: {_one_line(error)}") from error


class ToldSource:
    """A source whose errors name it, also while a target is written to."""

    def __init__(self, source: Source, place: str, option: str) -> None:
        """Take the source, and what :func:`told` wants."""
        self._source = source
        self._place = place
        self._option = option

    def studies(self) -> list[StudyRecord]:
        """See :class:`~trialfleet.transfer.copying.Source`."""
        with told(self._place, self._option):
            return self._source.studies()

    def trials(self, study_id: int) -> Iterator[list[TrialRecord]]:
        """See :class:`~trialfleet.transfer.copying.Source`."""
        slices = self._source.trials(study_id)
        while True:
            with told(self._place, self._option):
                trials = next(slices, None)
            if trials is None:
                return
            yield trials


def shown(url: sa.URL) -> str:
    """Return a URL for people."""
    return url.render_as_string(hide_password=True)


def _shown_text(place: str) -> str:
    try:
        return shown(sa.make_url(place)) if "://" in place else place
    except (sa.exc.ArgumentError, ValueError):
        return "URL"


def _locate(place: str, option: str) -> Path | sa.URL:
    """Return the path of a journal, or the URL of a database."""
    if "://" in place:
        try:
            url = sa.make_url(place)
            url.get_dialect()
        except sa.exc.ArgumentError as error:
            raise InvalidInput(
                f"{option}: found a URL that can't be used ({_one_line(error)}), "
                f"accepted: {_ACCEPTED}"
            ) from error
        except ValueError:
            # What stands for the port may be a part of a password.
            raise InvalidInput(
                f"{option}: found a URL that can't be used (its port is no number), "
                f"accepted: {_ACCEPTED}"
            ) from None
        # SQLAlchemy takes a plain postgresql:// for another driver than the one that we bring.
        plain = url.drivername == "postgresql"
        return url.set(drivername="postgresql+psycopg2") if plain else url
    path = Path(place)
    if path.is_dir():
        raise InvalidInput(f"{option}: found the folder {place}, accepted: {_ACCEPTED}")
    if path.is_file() and path.stat().st_size > 0:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
        if start == _MAGIC:
            return sa.URL.create("sqlite", database=place)
        if start.startswith(b"{"):
            return path
        raise InvalidInput(
            f"{option} {place}: found a file that is neither SQLite's nor a journal of Optuna's"
        )
    if path.suffix in _SQLITE:
        return sa.URL.create("sqlite", database=place)
    if path.suffix in _JOURNAL:
        return path
    raise InvalidInput(f"{option}: found {place!r}, accepted: {_ACCEPTED}")


def _file(place: Path | sa.URL) -> Path | None:
    if isinstance(place, Path):
        return place
    if place.get_backend_name() == "sqlite" and place.database not in (None, "", ":memory:"):
        assert place.database is not None
        return Path(place.database)
    return None


def _options(url: sa.URL) -> dict[str, Any]:
    waiting = {"postgresql": "connect_timeout", "mysql": "connect_timeout", "sqlite": "timeout"}
    option = waiting.get(url.get_backend_name())
    return {"connect_args": {option: CONNECT_S}} if option is not None else {}


@contextlib.contextmanager
def _engine(url: sa.URL) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url, poolclass=sa.NullPool, **_options(url))
    try:
        yield engine
    finally:
        engine.dispose()


def _check_revision(url: sa.URL, *, create: bool = False) -> None:
    """Let Optuna look at its tables, and make them if it may."""
    if create:
        with _engine(url) as engine, engine.connect():
            pass  # Optuna would write the error's trace to the log
    try:
        storage = RDBStorage(
            url.render_as_string(hide_password=False),
            skip_table_creation=not create,
            engine_kwargs=_options(url),
        )
    except RuntimeError as error:
        raise SchemaMismatch(f"{shown(url)}: {error}") from error
    storage.remove_session()
    storage.engine.dispose()


def _cause(error: BaseException) -> str:
    return _one_line(error.__cause__ or error)


def _one_line(error: BaseException) -> str:
    return " ".join(str(getattr(error, "orig", None) or error).split())[:300]
