"""The exceptions of Trialfleet, and the one table from them to gRPC and exit codes."""

from typing import Final

import grpc


class TrialfleetError(Exception):
    """Base of all errors that Trialfleet raises on purpose.

    The message is one line for people: what was found, and what is accepted.
    """


class InvalidInput(TrialfleetError):
    """A manifest, an option or a value that can't be used."""


class DefinitionDiffers(InvalidInput):
    """A study of that name has trials of another definition."""


class NotFound(TrialfleetError):
    """A study, trial or session that does not exist."""


def deleted(study: str) -> NotFound:
    """Return the error of who runs a study that somebody has deleted meanwhile."""
    return NotFound(f"the study {study!r} was deleted while it ran")


class StudyExists(TrialfleetError):
    """A study of that name exists."""


class TrialFinished(TrialfleetError):
    """A write to a finished trial."""


class SessionGivenUp(TrialfleetError):
    """The session was given up: its worker must open another one."""


class StudyEnded(TrialfleetError):
    """The study's budget allows no further trial. ``reason`` is one of ``names.ENDED_*``."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the study has ended: {reason}")
        self.reason = reason


class SchemaMismatch(TrialfleetError):
    """The database was made by another version, and nothing was written to it."""


class StorageUnavailable(TrialfleetError):
    """The database or every proxy is out of reach; the same call may work later."""


class DataLost(StorageUnavailable):
    """The database is not the one that held the trials before."""


class ClusterUnavailable(TrialfleetError):
    """A cluster's API server does not answer; the same call may work later."""


class Unauthenticated(StorageUnavailable):
    """A proxy does not know the caller's token; a new one may have to reach either of them."""


class ForkedProcess(TrialfleetError):
    """A process that was forked from one that uses a storage, and so can't call a proxy."""


class PermissionDenied(TrialfleetError):
    """The caller's token does not open what was asked for."""


class Overloaded(TrialfleetError):
    """Too many calls are waiting; the same call may work later."""


class MessageTooLarge(InvalidInput):
    """A trial or attribute that is larger than a proxy accepts."""


class ObjectiveImportError(TrialfleetError):
    """The objective can't be loaded: its source or its module raised."""


GRPC_CODES: Final[tuple[tuple[type[TrialfleetError], grpc.StatusCode], ...]] = (
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (StudyExists, grpc.StatusCode.ALREADY_EXISTS),
    (TrialFinished, grpc.StatusCode.FAILED_PRECONDITION),
    (StudyEnded, grpc.StatusCode.OUT_OF_RANGE),
    (SessionGivenUp, grpc.StatusCode.ABORTED),
    (InvalidInput, grpc.StatusCode.INVALID_ARGUMENT),
    (PermissionDenied, grpc.StatusCode.PERMISSION_DENIED),
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (SchemaMismatch, grpc.StatusCode.UNAVAILABLE),
    (StorageUnavailable, grpc.StatusCode.UNAVAILABLE),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
)

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_INVALID: Final = 2
EXIT_UNAVAILABLE: Final = 3
EXIT_OBJECTIVE: Final = 4
EXIT_DRAINED: Final = 75
"""A worker that left although work may remain. 75 is EX_TEMPFAIL of sysexits.h."""
EXIT_OVERRUN: Final = 76
"""A worker that ended itself because a trial ignored its time limit; the trial has failed."""
EXIT_INTERRUPTED: Final = 130

EXIT_CODES: Final[tuple[tuple[type[TrialfleetError], int], ...]] = (
    (ObjectiveImportError, EXIT_OBJECTIVE),
    (InvalidInput, EXIT_INVALID),
    (SchemaMismatch, EXIT_INVALID),
    (PermissionDenied, EXIT_INVALID),
    (StorageUnavailable, EXIT_UNAVAILABLE),
    (ClusterUnavailable, EXIT_UNAVAILABLE),
)


def grpc_code(error: BaseException) -> grpc.StatusCode:
    """Return the gRPC status code that stands for an error on the wire."""
    for kind, code in GRPC_CODES:
        if isinstance(error, kind):
            return code
    return grpc.StatusCode.INTERNAL


def exit_code(error: BaseException) -> int:
    """Return the exit code of a process that ends with an error."""
    for kind, code in EXIT_CODES:
        if isinstance(error, kind):
            return code
    return EXIT_FAILED
