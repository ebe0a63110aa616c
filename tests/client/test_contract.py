"""Optuna's own test suite for storages, through each way into a Trialfleet storage."""

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import optuna
import pytest
from optuna.storages import GrpcStorageProxy
from optuna.testing.pytest_storages import StorageTestCase

from tests.client.proxies import Proxy
from trialfleet.client import FleetStorage


def _emptied(storage: Any) -> None:
    for study in storage.get_all_studies():
        storage.delete_study(study._study_id)


class TestStockClient(StorageTestCase):
    @pytest.fixture
    def storage(self, proxies: list[Proxy]) -> Iterator[GrpcStorageProxy]:
        with pytest.warns(optuna.exceptions.ExperimentalWarning):
            storage = GrpcStorageProxy(host="127.0.0.1", port=proxies[0].port)
        _emptied(storage)
        yield storage
        storage.close()

    @pytest.mark.parametrize("param_names", [["a", "b"], ["b", "a"]])
    def test_get_all_trials_params_order(
        self, storage: optuna.storages.BaseStorage, param_names: list[str]
    ) -> None:
        # Optuna's messages hold parameters in a protobuf map, and the client's own protobuf
        # library gives a map's entries in an order that it draws anew in every process: against
        # any server, Optuna's own too, one of the two cases fails.
        study_id = storage.create_new_study(directions=[optuna.study.StudyDirection.MINIMIZE])
        trial_id = storage.create_new_trial(
            study_id, optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)
        )
        for name in param_names:
            storage.set_trial_param(
                trial_id, name, 1.0, optuna.distributions.FloatDistribution(0.0, 2.0)
            )
        assert sorted(storage.get_all_trials(study_id)[0].params) == ["a", "b"]


class TestFleetStorage(StorageTestCase):
    @pytest.fixture
    def storage(self, proxies: list[Proxy]) -> Iterator[FleetStorage]:
        storage = FleetStorage(proxies[0].address, patience_s=20)
        _emptied(storage)
        yield storage
        storage.close()


class TestFleetStorageOverTwoProxies(StorageTestCase):
    @pytest.fixture
    def storage(
        self, proxies: list[Proxy], monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[FleetStorage]:
        storage = FleetStorage([proxy.address for proxy in proxies], patience_s=20)
        connection = storage._core.connection
        turns = cycle(connection._endpoints)
        monkeypatch.setattr(connection, "_choose", lambda: next(turns))
        monkeypatch.setattr(connection, "_settle", lambda _: None)
        _emptied(storage)
        yield storage
        storage.close()
