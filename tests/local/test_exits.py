"""What the end of a worker means, for its trial and for the run."""

import signal

import pytest

from trialfleet import names
from trialfleet.local.exits import Fate, judge, oom_kills


@pytest.mark.parametrize(
    ("code", "out_of_memory", "fate", "reason", "message"),
    [
        (0, False, Fate.DONE, names.REASON_CRASHED, "exit code 0"),
        (75, False, Fate.LEFT, names.REASON_KILLED, "left"),
        (76, False, Fate.LEFT, names.REASON_KILLED, "left"),
        (4, False, Fate.OBJECTIVE_UNUSABLE, "", ""),
        (2, False, Fate.UNUSABLE, "", ""),
        (3, False, Fate.LOST, names.REASON_KILLED, "no storage"),
        (1, False, Fate.FAILED, names.REASON_CRASHED, "exit code 1"),
        (-signal.SIGSEGV, False, Fate.FAILED, names.REASON_CRASHED, "with SIGSEGV"),
        (-signal.SIGABRT, True, Fate.FAILED, names.REASON_CRASHED, "with SIGABRT"),
        (-signal.SIGTERM, False, Fate.LOST, names.REASON_KILLED, "by SIGTERM"),
        (-signal.SIGKILL, False, Fate.LOST, names.REASON_KILLED, "by SIGKILL"),
        (-signal.SIGKILL, True, Fate.FAILED, names.REASON_OOM_KILLED, "out of memory"),
        (-63, False, Fate.LOST, names.REASON_KILLED, "by signal 63"),
    ],
)
def test_verdicts(code: int, out_of_memory: bool, fate: Fate, reason: str, message: str) -> None:
    verdict = judge(code, out_of_memory=out_of_memory)
    assert (verdict.fate, verdict.reason) == (fate, reason)
    assert message in verdict.message


def test_the_kernels_count_can_be_read() -> None:
    assert oom_kills() >= 0
