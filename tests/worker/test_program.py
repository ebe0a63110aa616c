"""Programs as processes of their own."""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from trialfleet.worker import program
from trialfleet.worker.group import NotStarted
from trialfleet.worker.interrupts import HandBack, TrialTimedOut
from trialfleet.worker.program import ProgramEnd

TIMEOUT_S = 60.0


def run(
    *arguments: str,
    folder: Path = Path("/"),
    lines: list[str] | None = None,
    errors: list[str] | None = None,
    lengths: list[int] | None = None,
) -> ProgramEnd:
    return program.run(
        arguments,
        environment=dict(os.environ),
        folder=folder,
        on_line=([] if lines is None else lines).append,
        on_error=([] if errors is None else errors).append,
        on_long_line=([] if lengths is None else lengths).append,
    )


def shell(script: str, *arguments: str, lines: list[str] | None = None) -> ProgramEnd:
    return run("/bin/sh", "-c", script, "sh", *arguments, lines=lines)


class Held:
    """A named pipe, by which it can be told whether any process still has it open."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> bytes:
        ready, _, _ = select.select([self._reading], [], [], TIMEOUT_S)
        assert ready
        return os.read(self._reading, 100)

    def close(self) -> None:
        os.close(self._reading)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    pipe = Held(tmp_path / "held")
    yield pipe
    pipe.close()


def functions(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back


@pytest.fixture
def interrupt() -> Iterator[Callable[[type[BaseException], Held], None]]:
    """Raise an exception in the main thread once, after something is written to a pipe."""
    threads = []
    raised = threading.Event()

    def arrange(kind: type[BaseException], held: Held) -> None:
        def handler(number: int, frame: FrameType | None) -> None:
            # What has not got as far as being attended to is killed at once.
            if "attend" in functions(frame) and not raised.is_set():
                raised.set()
                raise kind

        def wait() -> None:
            held.read()
            while not raised.wait(0.01):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGURG)

        signal.signal(signal.SIGURG, handler)
        threads.append(threading.Thread(target=wait))
        threads[-1].start()

    former = signal.getsignal(signal.SIGURG)
    yield arrange
    raised.set()
    for thread in threads:
        thread.join()
    signal.signal(signal.SIGURG, former)


def test_output_is_passed_on_and_read(capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []

    ended = shell("echo out; echo err >&2; printf 'no newline'; exit 3", lines=lines)

    assert ended == ProgramEnd(3, ["err"])
    assert [line.strip() for line in lines] == ["out", "no newline"]
    assert capfd.readouterr() == ("out\nno newline\n", "err\n")


def test_a_program_has_nothing_to_read() -> None:
    assert run("cat") == ProgramEnd(0, [])


def test_lines_end_with_carriage_returns_too() -> None:
    lines: list[str] = []

    ended = shell(
        r"printf '1%%\r2%%\r\nvalue\r\n'; printf 'a\r\nfirst 1%%\r2%%\r3%%\nlast\n\n' >&2",
        lines=lines,
    )

    assert [line.strip() for line in lines if line.strip()] == ["1%", "2%", "value"]
    assert ended.errors == ["a", "3%", "last"]


def test_a_line_without_end_takes_no_memory(capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []

    shell("echo first; head -c 20000000 /dev/zero | tr '\\0' x; echo; echo last", lines=lines)

    assert lines == ["first\n", "last\n"]
    assert len(capfd.readouterr().out) == 20_000_001 + len("first\nlast\n")


def test_the_last_errors_are_kept() -> None:
    ended = shell("seq 1 100000 >&2; head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1")

    assert len(ended.errors) == program.ERROR_LINES
    assert ended.errors[-2] == "100000"
    assert ended.errors[-1] == "x" * program.ERROR_LINE_CHARACTERS


def test_what_is_no_text_is_read_all_the_same() -> None:
    lines: list[str] = []

    shell(r"printf 'caf\351 \303\244\000\n'", lines=lines)

    assert lines == ["caf\ufffd ä\0\n"]


@pytest.mark.parametrize("signum", [signal.SIGSEGV, signal.SIGKILL])
def test_a_program_that_is_killed_by_a_signal(signum: signal.Signals) -> None:
    assert shell(f"kill -{signum.value} $$") == ProgramEnd(-signum, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-program"], "No such file or directory"),
        (["/etc"], "Permission denied"),
        (["echo", "a\0b"], "embedded null byte"),
        (["echo", "x" * 10_000_000], "Argument list too long"),
    ],
)
def test_a_program_that_can_t_be_started(arguments: list[str], message: str) -> None:
    with pytest.raises(NotStarted, match=message):
        run(*arguments)


def test_what_a_program_leaves_behind_is_killed(held: Held) -> None:
    started = time.monotonic()

    assert shell('exec 9>"$1"; sleep 1000 9>&9 & exit 0', held.path) == ProgramEnd(0, [])

    assert held.read() == b""
    assert time.monotonic() - started < 30


def test_what_a_program_leaves_behind_may_end_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "file"
    lines: list[str] = []

    shell(
        '(while [ ! -e "$1" ]; do sleep 0.01; done; echo late) & : > "$1"', str(file), lines=lines
    )

    assert lines == ["late\n"]


BECOMES_A_DAEMON = """
import os, sys, time
held = open(sys.argv[1], "w")
if os.fork() == 0:
    os.setsid()
    print(os.getpid(), file=held, flush=True)
    time.sleep(1000)
"""


def test_a_daemon_is_not_waited_for(held: Held) -> None:
    assert run(sys.executable, "-c", BECOMES_A_DAEMON, held.path).code == 0

    daemon = int(held.read())
    os.kill(daemon, signal.SIGKILL)
    assert held.read() == b""


SAVES = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
held = open(sys.argv[1], "w")
print(file=held, flush=True)
signal.sigwait([signal.SIGTERM])
print("saved")
"""


@pytest.mark.parametrize("kind", [HandBack, TrialTimedOut])
def test_an_interrupted_program_may_end_in_order(
    held: Held, interrupt: Callable[[type[BaseException], Held], None], kind: type[BaseException]
) -> None:
    interrupt(kind, held)
    lines: list[str] = []

    with pytest.raises(kind):
        run(sys.executable, "-c", SAVES, held.path, lines=lines)

    assert lines == ["saved\n"]
    assert held.read() == b""


def test_an_interrupted_program_that_does_not_end_is_killed(
    held: Held, interrupt: Callable[[type[BaseException], Held], None]
) -> None:
    interrupt(HandBack, held)
    started = time.monotonic()

    with pytest.raises(HandBack):
        shell(
            """
            exec 9>"$1"
            trap "" TERM INT HUP
            echo >&9
            sleep 1000 &
            sleep 1000
            """,
            held.path,
        )

    assert held.read() == b""
    assert time.monotonic() - started < 30


def test_a_program_may_end_its_own_group() -> None:
    assert shell("trap '' TERM; echo end >&2; kill -TERM 0; exit 5") == ProgramEnd(5, ["end"])
    assert shell("kill -KILL 0") == ProgramEnd(-signal.SIGKILL, [])


def test_nothing_is_left_open() -> None:
    before = set(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    for _ in range(3):
        run("true")
    assert set(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() == threads


def test_lines_of_megabytes_are_read_and_longer_ones_told_by_their_length() -> None:
    lines: list[str] = []
    lengths: list[int] = []
    script = """
import sys
print("a" * 3_000_000)
print("b" * int(sys.argv[1]))
print("c")
print("d" * int(sys.argv[1]), end="")
"""
    longer = program.LINE_BYTES + 100_000

    run(sys.executable, "-c", script, str(longer), lines=lines, lengths=lengths)

    assert lines == ["a" * 3_000_000 + "\n", "c\n"]
    assert lengths == [longer + 1, longer + 1]


def test_lines_of_standard_error_are_read_too() -> None:
    errors: list[str] = []
    ended = run("/bin/sh", "-c", "echo out; echo one >&2; echo two >&2", errors=errors)
    assert (ended, errors) == (ProgramEnd(0, ["one", "two"]), ["one\n", "two\n"])
