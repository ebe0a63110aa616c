"""How a run is told: rates, states and failures in few words."""

import io
import re
import subprocess
import sys
import time

from optuna.trial import create_trial
from rich.console import Console

from trialfleet.client import Counts, Summary
from trialfleet.local.failures import SHOWN, Failures
from trialfleet.local.progress import (
    LiveView,
    PlainView,
    Rate,
    Shown,
    describe,
    make_view,
)

SHOWN_STUDY = Shown("digits", ("accuracy",), 20)


def summary(complete: int, **counts: int) -> Summary:
    best = create_trial(value=0.98)
    return Summary(Counts(complete=complete, **counts), [best], 1, "", 0)


def test_a_state_in_one_line() -> None:
    text = describe(SHOWN_STUDY, summary(9, running=2, pruned=3, failed=1, lost=4), 2.5)
    best = f"best accuracy 0.98 (trial {create_trial(value=0.98).number})"
    assert text == f"{best} | 2.5 trials/s | 2 running | 3 pruned | 1 failed | 4 lost"
    assert "30 trials/min" in describe(SHOWN_STUDY, summary(1), 0.5)
    several = Shown("digits", ("accuracy", "size"), None)
    assert describe(several, summary(1), None) == "1 on the Pareto front"


def test_a_rate_is_that_of_the_last_while() -> None:
    rate = Rate()
    assert rate.add(0.0, 10) is None
    assert rate.add(0.5, 12) is None
    assert rate.add(10.0, 30) == 2.0
    for second in range(11, 100):
        last = rate.add(float(second), 30 + 5 * (second - 10))
    assert last is not None
    assert abs(last - 5.0) < 1e-9


def test_a_plain_view_writes_few_lines() -> None:
    file = io.StringIO()
    view = make_view(SHOWN_STUDY, Console(file=file))
    assert isinstance(view, PlainView)
    for complete in range(20):
        view.update(summary(complete), 2)
    view.line("[red]as it is[/red]")
    view.close()
    view.close()
    lines = file.getvalue().splitlines()
    assert [line.split(" |")[0] for line in lines] == [
        "digits: 0/20 trials",
        "[red]as it is[/red]",
        "digits: 19/20 trials",
    ]


def test_a_terminal_gets_a_bar() -> None:
    file = io.StringIO()
    view = make_view(SHOWN_STUDY, Console(file=file, force_terminal=True, width=160))
    assert isinstance(view, LiveView)
    view.update(summary(0), 2)
    view.line("a worker's [line]")
    view.update(summary(7, running=1), 2)
    view.close()
    text = file.getvalue()
    assert "a worker's [line]" in text
    assert "7/20" in text
    assert "best accuracy 0.98" in text


def test_a_failure_is_told_once_and_counted() -> None:
    failures = Failures()
    assert failures.hear("just a line") == "just a line"
    told = failures.hear("2026-01-01T00:00:00Z WARNING trial 3 failed: ValueError: x (a.py:1)")
    assert told == "trial 3 failed: ValueError: x (a.py:1)"
    assert failures.hear("WARNING trial 5 failed: ValueError: x (a.py:1)") is None
    for number in range(SHOWN):
        failures.hear(f"trial {number} failed: other {number}")
    assert failures.hear("trial 90 failed: one too many") is None
    assert failures.summary() == ["2 trials failed: ValueError: x (a.py:1) (the first: 3)"]


def test_importing_the_package_is_cheap() -> None:
    code = (
        "import sys, trialfleet\n"
        "assert not {'optuna', 'grpc', 'rich'} & set(sys.modules)\n"
        "assert callable(trialfleet.optimize)\n"
        "assert 'optuna' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_chatty_program_is_as_quick_on_a_terminal() -> None:
    file = io.StringIO()
    view = make_view(SHOWN_STUDY, Console(file=file, force_terminal=True, width=160))
    view.update(summary(0), 2)
    began = time.process_time()
    for number in range(50_000):
        view.line(f"line {number}")
    view.update(summary(1), 2)
    seconds = time.process_time() - began
    view.close()
    text = file.getvalue()
    assert seconds < 1.0
    assert re.findall(r"line (\d+)$", text, re.MULTILINE) == [str(n) for n in range(50_000)]


def test_colours_are_passed_on_and_what_moves_the_bar_is_not() -> None:
    file = io.StringIO()
    view = make_view(SHOWN_STUDY, Console(file=file, force_terminal=True, width=160))
    view.line("plain [1]")
    view.line("\x1b[31mred\x1b[0m\x1b[2Jx")
    view.close()
    assert "plain [1]\n" in file.getvalue()
    assert "\x1b[31mred" in file.getvalue()
    assert "\x1b[2J" not in file.getvalue()
