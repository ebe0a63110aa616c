"""Two clients and a trial of either, compared call by call with Optuna's own RDBStorage."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from optuna.distributions import FloatDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tests.client.proxies import Proxy
from trialfleet.client import FleetStorage

CLIENTS = st.sampled_from((0, 1))
PLACES = st.integers(0, 3)
KEYS = st.sampled_from(("a", "b"))
VALUES = st.integers(-3, 3)
STATES = st.sampled_from((TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED))


def _outcome(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the type of what it raises."""
    try:
        found = call()
    except (KeyError, RuntimeError, ValueError) as error:
        return next(
            kind for kind in (KeyError, RuntimeError, ValueError) if isinstance(error, kind)
        )
    return _plain(found) if isinstance(found, FrozenTrial) else found


def _plain(trial: FrozenTrial) -> tuple[Any, ...]:
    return (
        trial.number,
        trial.state,
        trial.values,
        trial.params,
        trial.user_attrs,
        trial.system_attrs,
        trial.intermediate_values,
    )


@pytest.fixture
def clients(database_url: str) -> Iterator[list[FleetStorage]]:
    proxies = [Proxy(database_url), Proxy(database_url)]
    made = [FleetStorage(proxy.address) for proxy in proxies]
    yield made
    for one in made:
        one.close()
    for proxy in proxies:
        proxy.stop()


def test_as_over_rdb_storage(clients: list[FleetStorage], tmp_path: Any) -> None:
    model = RDBStorage(f"sqlite:///{tmp_path}/model.db")
    names = iter(range(1_000_000))

    class Calls(RuleBasedStateMachine):
        """What Optuna's interface offers of trials, by two clients."""

        @initialize()
        def begin(self) -> None:
            name = f"study {next(names)}"
            self.model_study = model.create_new_study([StudyDirection.MINIMIZE], name)
            self.study = clients[0].create_new_study([StudyDirection.MINIMIZE], name)
            self.trials: list[tuple[int, int]] = []

        def _compare(
            self, client: int, place: int, call: Callable[[BaseStorage, int], Any]
        ) -> None:
            if not self.trials:
                return
            expected, ours = self.trials[place % len(self.trials)]
            assert _outcome(lambda: call(clients[client], ours)) == _outcome(
                lambda: call(model, expected)
            )

        @rule(client=CLIENTS)
        def create(self, client: int) -> None:
            expected = model.create_new_trial(self.model_study)
            self.trials.append((expected, clients[client].create_new_trial(self.study)))

        @rule(client=CLIENTS, place=PLACES, key=KEYS, value=VALUES)
        def set_user_attr(self, client: int, place: int, key: str, value: int) -> None:
            self._compare(client, place, lambda s, t: s.set_trial_user_attr(t, key, value))

        @rule(client=CLIENTS, place=PLACES, key=KEYS, value=VALUES)
        def set_system_attr(self, client: int, place: int, key: str, value: int) -> None:
            self._compare(client, place, lambda s, t: s.set_trial_system_attr(t, key, value))

        @rule(client=CLIENTS, place=PLACES, key=KEYS, value=VALUES)
        def set_param(self, client: int, place: int, key: str, value: int) -> None:
            space = FloatDistribution(-3, 3)
            self._compare(client, place, lambda s, t: s.set_trial_param(t, key, value, space))

        @rule(client=CLIENTS, place=PLACES, step=st.integers(0, 2), value=VALUES)
        def report(self, client: int, place: int, step: int, value: int) -> None:
            self._compare(
                client, place, lambda s, t: s.set_trial_intermediate_value(t, step, value)
            )

        @rule(client=CLIENTS, place=PLACES, state=STATES, value=VALUES)
        def tell(self, client: int, place: int, state: TrialState, value: int) -> None:
            values = None if state == TrialState.FAIL else [float(value)]
            self._compare(client, place, lambda s, t: s.set_trial_state_values(t, state, values))

        @rule(client=CLIENTS, place=PLACES)
        def read(self, client: int, place: int) -> None:
            self._compare(client, place, lambda s, t: s.get_trial(t))

        @rule(client=CLIENTS)
        def read_all(self, client: int) -> None:
            found = clients[client].get_all_trials(self.study)
            assert [_plain(trial) for trial in found] == [
                _plain(trial) for trial in model.get_all_trials(self.model_study)
            ]

    run_state_machine_as_test(
        Calls,
        settings=settings(
            max_examples=10,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
