"""Structured logs: one line for each event, on standard error."""

import datetime
import enum
import json
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

_EXTRA: Final = "fields"


class Format(enum.StrEnum):
    """How a line looks."""

    TEXT = "text"
    """``key=value`` pairs."""

    JSON = "json"
    """One JSON object."""


class _Formatter(logging.Formatter):
    def __init__(self, form: Format) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        fields: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, _EXTRA, {}),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        if self._form is Format.JSON:
            return json.dumps(fields, default=str)
        return " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())


def _quoted(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and text and not any(c in ' "=' for c in text)
    return text if plain else json.dumps(text, ensure_ascii=False)


class _Rare(logging.Filter):
    """Lets gRPC say something once a minute, in a line: what callers send is its concern."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("grpc"):
            return True
        if self._clock() < self._next:
            return False
        self._next = self._clock() + 60
        record.exc_info = record.exc_text = None
        return True


def configure(form: Format) -> None:
    """Send this process's logs to standard error: of Trialfleet from INFO, else from WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(form))
    handler.addFilter(_Rare())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("trialfleet").setLevel(logging.INFO)


def event(
    log: logging.Logger,
    level: int,
    name: str,
    *,
    exc_info: BaseException | None = None,
    **fields: object,
) -> None:
    """Log an event with the values that belong to it, and with a traceback if one is given."""
    log.log(level, name, exc_info=exc_info, extra={_EXTRA: fields})
