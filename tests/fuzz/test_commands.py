"""Commands to a storage in any order, through two proxies' storages, compared with a model."""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from optuna.trial import TrialState

from tests.fuzz.effort import Effort
from tests.fuzz.model import RUNNING, WAITING, Model, Trial
from tests.storage.conftest import template as template
from tests.storage.conftest import url as url
from tests.storage.fleet import MINIMIZE, attributes, check, create, param, storages
from trialfleet import names
from trialfleet.model.budget import Budget
from trialfleet.model.errors import TrialfleetError
from trialfleet.model.session import WriteId
from trialfleet.model.study import Counts
from trialfleet.model.trial import TrialRecord, TrialUpdate
from trialfleet.storage import Storage
from trialfleet.storage.commands import (
    CloseSession,
    Command,
    CreateTrial,
    Ended,
    GiveUp,
    KeepAlive,
    OpenSession,
    OpenTrial,
    StopStudy,
    UpdateTrial,
    Wait,
    WriteTrial,
)

PROXIES = st.integers(0, 1)
PLACES = st.integers(0, 7)
XS = st.sampled_from((0.0, 0.25, 1.0))
VALUES = st.sampled_from((-1.0, 0.0, 2.5))
ENDS = st.sampled_from((TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
MOST = st.none() | st.integers(0, 6)


class Commands(RuleBasedStateMachine):
    """One study, its sessions and its trials."""

    runner: asyncio.Runner
    proxies: list[Storage]
    numbers: Iterator[int]

    @initialize()
    def begin(self) -> None:
        self.name = f"study {next(self.numbers)}"
        self.study = self.run(create(self.proxies[0], self.name))
        self.model = Model()
        self.sessions: list[bytes] = []
        self.sequence = itertools.count(1)
        self.ids: list[int] = []
        self.done: list[tuple[Command, int, int | None]] = []

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def apply(self, proxy: int, command: Command) -> Any:
        """Apply a command; return its answer, or the name of its error."""
        try:
            return self.run(self.proxies[proxy].apply(command))
        except TrialfleetError as error:
            return type(error).__name__

    def write(self, session: int) -> WriteId:
        return WriteId(self.sessions[session], next(self.sequence))

    def pick(self, place: int) -> Trial:
        return self.model.trials[place % len(self.model.trials)]

    @rule(proxy=PROXIES, most=MOST, most_failed=MOST, retries=st.integers(0, 2))
    def define(self, proxy: int, most: int | None, most_failed: int | None, retries: int) -> None:
        budget = Budget(trials=most, failed_trials=most_failed)
        self.run(create(self.proxies[proxy], self.name, (MINIMIZE,), budget, retries=retries))
        self.model.define(most, most_failed, retries)

    @rule(proxy=PROXIES)
    def stop(self, proxy: int) -> None:
        assert self.apply(proxy, StopStudy(self.study)) is None
        self.model.stopped = True

    @rule(proxy=PROXIES)
    def open_session(self, proxy: int) -> None:
        session = next(self.numbers).to_bytes(16, "big")
        self.apply(proxy, OpenSession(session, f"worker {session.hex()}", self.name, 600))
        self.model.alive.add(len(self.sessions))
        self.sessions.append(session)

    @precondition(lambda self: self.sessions)
    @rule(proxy=PROXIES, place=PLACES)
    def ask(self, proxy: int, place: int) -> None:
        session = place % len(self.sessions)
        command = OpenTrial(self.study, self.write(session))
        found = self.apply(proxy, command)
        expected = self.model.ask(session)
        if not isinstance(expected, Trial):
            kinds = {"Wait": Wait, "Ended": Ended, "SessionGivenUp": str}
            assert isinstance(found, kinds[expected]), (found, expected)
            return
        assert isinstance(found, TrialRecord), (found, expected)
        assert found.number == expected.number
        self.done.append((command, session, found.trial_id))

    @precondition(lambda self: self.sessions and self.model.trials)
    @rule(proxy=PROXIES, place=PLACES, other=PLACES, state=st.none() | ENDS, x=XS, value=VALUES)
    def update(
        self, proxy: int, place: int, other: int, state: TrialState | None, x: float, value: float
    ) -> None:
        self._update(proxy, place, other, state, x, value)

    @precondition(lambda self: self.sessions and self.model.trials)
    @rule(proxy=PROXIES, place=PLACES, x=XS)
    def hand_back(self, proxy: int, place: int, x: float) -> None:
        self._update(proxy, place, None, WAITING, x, 0.0)

    def _update(
        self,
        proxy: int,
        place: int,
        other: int | None,
        state: TrialState | None,
        x: float,
        value: float,
    ) -> None:
        trial = self.pick(place)
        # Mostly by whoever runs it; now and then by another.
        session = trial.owner or 0
        if other is not None and other < len(self.sessions):
            session = other
        told = value if state == TrialState.COMPLETE else None
        update = TrialUpdate(self.ids[trial.number], params=(param("x", x),))
        values = None if told is None else [told]
        command = UpdateTrial(self.write(session), update, state, values)
        found = self.apply(proxy, command)
        assert found == self.model.update(session, trial, state, x, told)
        if found is None:
            self.done.append((command, session, None))

    @precondition(lambda self: self.done)
    @rule(proxy=PROXIES, place=PLACES)
    def again(self, proxy: int, place: int) -> None:
        """Send one of the last writes once more: nothing changes."""
        command, session, answer = self.done[-1 - place % len(self.done)]
        found = self.apply(proxy, command)
        found = found.trial_id if isinstance(found, TrialRecord) else found
        if session in self.model.alive:
            assert found == answer
        else:
            assert found in (answer, "SessionGivenUp")

    @precondition(lambda self: self.sessions)
    @rule(proxy=PROXIES, place=PLACES)
    def keep_alive(self, proxy: int, place: int) -> None:
        session = place % len(self.sessions)
        found = self.apply(proxy, KeepAlive(self.sessions[session]))
        assert found == (session in self.model.alive)

    @precondition(lambda self: self.sessions)
    @rule(proxy=PROXIES, place=PLACES)
    def close(self, proxy: int, place: int) -> None:
        session = place % len(self.sessions)
        self.apply(proxy, CloseSession(self.sessions[session]))
        self.model.close(session)

    @precondition(lambda self: self.sessions)
    @rule(proxy=PROXIES, place=PLACES, failed=st.booleans(), by_worker=st.booleans())
    def give_up(self, proxy: int, place: int, failed: bool, by_worker: bool) -> None:
        session = place % len(self.sessions)
        name = self.sessions[session]
        which: dict[str, Any] = {"session": name}
        if by_worker:
            which = {"worker": f"worker {name.hex()}"}
        self.apply(proxy, GiveUp(names.REASON_KILLED, failed=failed, **which))
        self.model.give_up(session, failed)

    @rule(proxy=PROXIES, state=ENDS | st.sampled_from((RUNNING, WAITING)), value=VALUES)
    def create(self, proxy: int, state: TrialState, value: float) -> None:
        told = value if state == TrialState.COMPLETE else None
        values = None if told is None else [told]
        self.apply(proxy, CreateTrial(self.study, TrialRecord(0, 0, state, values)))
        self.model.add(state, value=told)

    @precondition(lambda self: self.model.trials)
    @rule(proxy=PROXIES, place=PLACES, state=ENDS | st.just(RUNNING), value=VALUES)
    def write_trial(self, proxy: int, place: int, state: TrialState, value: float) -> None:
        trial = self.pick(place)
        told = value if state == TrialState.COMPLETE else None
        values = None if told is None else [told]
        command = WriteTrial(TrialUpdate(self.ids[trial.number]), state, values)
        assert self.apply(proxy, command) == self.model.write(trial, state, told)

    @invariant()
    def same(self) -> None:
        model = self.model
        records = self.run(self.proxies[0].trials_since(self.study, 0, ()))
        self.ids = [record.trial_id for record in records]
        assert [_plain(record) for record in records] == [
            (
                *(trial.number, trial.state),
                None if trial.value is None else [trial.value],
                [] if trial.x is None else [trial.x],
                trial.before,
            )
            for trial in model.trials
        ]
        summary = self.run(self.proxies[1].summary(self.study))
        assert summary.counts == Counts(
            complete=model.count(TrialState.COMPLETE),
            pruned=model.count(TrialState.PRUNED),
            failed=model.count(TrialState.FAIL),
            running=model.count(RUNNING),
            waiting=model.count(WAITING),
            lost=sum(trial.lost for trial in model.trials),
        )
        assert summary.sessions == len(model.alive)
        told = [t.value for t in model.trials if t.state == TrialState.COMPLETE]
        best = [record.values for record in summary.best]
        assert best == ([[min(v for v in told if v is not None)]] if told else [])


def _plain(record: TrialRecord) -> tuple[Any, ...]:
    history = attributes(record.system_attrs).get(names.ATTR_RETRY_HISTORY, [])
    xs = [found.value for found in record.params]
    return record.number, record.state, record.values, xs, history


@pytest.fixture
def machine(url: str) -> Iterator[type[Commands]]:
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        opened = storages(url, 2)
        proxies = runner.run(opened.__aenter__())
        stack.callback(lambda: runner.run(opened.__aexit__(None, None, None)))

        class Here(Commands):
            pass

        Here.runner, Here.proxies, Here.numbers = runner, proxies, itertools.count()
        yield Here


def test_as_the_model_says(machine: type[Commands], url: str, effort: Effort) -> None:
    effort.walk(machine, 15, 30)
    check(url)
