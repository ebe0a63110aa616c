"""The standard health service tells whether the database is there."""

import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tests.proxy.running import TIMEOUT_S, Running, eventually
from trialfleet import names
from trialfleet.local.postgres import Postgres
from trialfleet.wire.v1 import trialfleet_pb2 as pb

SERVICES = ("", "trialfleet.v1.TrialFleet", "optuna.StorageService")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def statuses(proxy: Running) -> set[int]:
    requests = (health_pb2.HealthCheckRequest(service=service) for service in SERVICES)
    return {proxy.health.Check(request).status for request in requests}


def test_health_follows_the_database(
    start_proxy: Callable[..., Running], postgres_folder: Path
) -> None:
    with Postgres(postgres_folder) as postgres:
        url = postgres.url
    proxy = start_proxy(url, wait=False, check_interval_s=0.05)
    assert statuses(proxy) == {NOT_SERVING}
    list_studies = pb.ListStudiesRequest()
    with pytest.raises(grpc.RpcError) as caught:
        proxy.stub.ListStudies(list_studies)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "the database is away: " in str(caught.value.details())

    with Postgres(postgres_folder):
        assert proxy.connected.wait(TIMEOUT_S)
        assert statuses(proxy) == {SERVING}
        proxy.stub.ListStudies(list_studies)
    eventually(lambda: statuses(proxy) == {NOT_SERVING})
    with pytest.raises(grpc.RpcError) as caught:
        proxy.stub.ListStudies(list_studies)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

    with Postgres(postgres_folder):
        eventually(lambda: statuses(proxy) == {SERVING})
        create = pb.EnsureStudyRequest(name="s", directions=[pb.MINIMIZE])
        assert proxy.stub.EnsureStudy(create).created


def check(proxy: Running, service: str) -> int:
    return int(proxy.health.Check(health_pb2.HealthCheckRequest(service=service)).status)


def test_a_probe_of_the_start_waits_for_the_database(
    start_proxy: Callable[..., Running], postgres_folder: Path
) -> None:
    """Each probe that fails would be a Warning in the cluster."""
    with Postgres(postgres_folder) as postgres:
        url = postgres.url
    proxy = start_proxy(url, wait=False, check_interval_s=0.05)
    request = health_pb2.HealthCheckRequest(service=names.HEALTH_STARTUP)
    started = proxy.health.Check.future(request)
    # It lives, whatever its database does.
    assert check(proxy, names.HEALTH_LIVENESS) == SERVING
    assert not started.done()
    with Postgres(postgres_folder):
        assert started.result(TIMEOUT_S).status == SERVING
    eventually(lambda: statuses(proxy) == {NOT_SERVING})
    assert check(proxy, names.HEALTH_LIVENESS) == check(proxy, names.HEALTH_STARTUP) == SERVING


def test_a_probe_of_the_start_does_not_delay_a_stop(
    start_proxy: Callable[..., Running], postgres_folder: Path
) -> None:
    with Postgres(postgres_folder) as postgres:
        url = postgres.url
    proxy = start_proxy(url, wait=False, grace_s=600)
    request = health_pb2.HealthCheckRequest(service=names.HEALTH_STARTUP)
    started = proxy.health.Check.future(request)
    assert check(proxy, names.HEALTH_LIVENESS) == SERVING
    proxy.stop()
    assert started.result(TIMEOUT_S).status == NOT_SERVING


def test_an_unknown_service_is_not_found(proxy: Running) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        proxy.health.Check(health_pb2.HealthCheckRequest(service="nope"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_who_watches_is_told_of_the_stop_and_does_not_delay_it(
    start_proxy: Callable[..., Running], database_url: str
) -> None:
    proxy = start_proxy(database_url, grace_s=600)
    seen: list[int] = []
    serving, ended = threading.Event(), threading.Event()

    def watch() -> None:
        for response in proxy.health.Watch(health_pb2.HealthCheckRequest()):
            seen.append(response.status)
            serving.set()
        ended.set()

    watching = threading.Thread(target=watch)
    watching.start()
    assert serving.wait(TIMEOUT_S)
    proxy.stop()
    watching.join(TIMEOUT_S)
    assert ended.is_set()
    assert (seen[0], seen[-1]) == (SERVING, NOT_SERVING)
