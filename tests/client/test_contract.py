"""Optuna's own test suite for storages, through each way into a Trialfleet storage."""

from collections.abc import Callable, Iterator
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
        turns = cycle(range(len(proxies)))
        monkeypatch.setattr(connection, "_choose", lambda: next(turns))
        monkeypatch.setattr(connection, "_settle", lambda _: None)
        _emptied(storage)
        yield storage
        storage.close()


