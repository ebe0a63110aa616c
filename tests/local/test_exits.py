"""What the end of a worker means, for its trial and for the run."""

import signal

import pytest

from trialfleet import names
from trialfleet.local.exits import end_of_process, oom_kills
from trialfleet.model.ends import EndKind


@pytest.mark.parametrize(
    ("code", "out_of_memory", "kind", "reason", "message"),
    [
        (0, False, EndKind.NO_MORE_WORK, names.REASON_CRASHED, "exit code 0"),
        (75, False, EndKind.LEFT, names.REASON_KILLED, "left"),
        (76, False, EndKind.LEFT, names.REASON_KILLED, "left"),
        (4, False, EndKind.OBJECTIVE_UNUSABLE, "", ""),
        (2, False, EndKind.UNUSABLE, "", ""),
        (3, False, EndKind.LOST, names.REASON_KILLED, "no storage"),
        (1, False, EndKind.FAILED, names.REASON_CRASHED, "exit code 1"),
        (-signal.SIGSEGV, False, EndKind.FAILED, names.REASON_CRASHED, "with SIGSEGV"),
        (-signal.SIGABRT, True, EndKind.FAILED, names.REASON_CRASHED, "with SIGABRT"),
        (-signal.SIGTERM, False, EndKind.LOST, names.REASON_KILLED, "by SIGTERM"),
        (-signal.SIGKILL, False, EndKind.LOST, names.REASON_KILLED, "by SIGKILL"),
        (-signal.SIGKILL, True, EndKind.FAILED, names.REASON_OOM_KILLED, "out of memory"),
        (-63, False, EndKind.LOST, names.REASON_KILLED, "by signal 63"),
    ],
)
def test_ends(code: int, out_of_memory: bool, kind: EndKind, reason: str, message: str) -> None:
    end = end_of_process(code, out_of_memory=out_of_memory)
    assert (end.kind, end.reason) == (kind, reason)
    assert message in end.message


def test_the_kernels_count_can_be_read() -> None:
    assert oom_kills() >= 0
