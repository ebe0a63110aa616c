"""The page that Prometheus reads."""

import urllib.request
from collections.abc import Callable

import grpc
import pytest
from optuna.storages._grpc.auto_generated import api_pb2
from prometheus_client.parser import text_string_to_metric_families

from tests.proxy.running import LOCALHOST, Running, Session
from trialfleet.wire.v1 import trialfleet_pb2 as pb

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(proxy: Running) -> Samples:
    with urllib.request.urlopen(f"http://{proxy.proxy.metrics_address}/metrics") as page:
        text = page.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_what_is_counted(start_proxy: Callable[..., Running], database_url: str) -> None:
    proxy = start_proxy(database_url, metrics=LOCALHOST)
    found = samples(proxy)
    assert value(found, "trialfleet_proxy_serving") == 1
    assert value(found, "trialfleet_proxy_history_logs") == 0
    assert ("process_resident_memory_bytes", frozenset()) in found

    proxy.stub.EnsureStudy(pb.EnsureStudyRequest(name="s", directions=[pb.MINIMIZE]))
    session = Session(proxy.stub, "s")
    for number in range(3):
        session.tell(session.open_trial().trial_id, number)
    list(proxy.stub.History(pb.HistoryRequest(study_id=session.study_id)))
    with pytest.raises(grpc.RpcError):
        proxy.stub.Summary(pb.SummaryRequest(study_id=99))
    proxy.optuna.GetAllStudies(api_pb2.GetAllStudiesRequest())

    found = samples(proxy)
    ours = "trialfleet.v1.TrialFleet"
    requests = "trialfleet_proxy_requests_total"
    assert value(found, requests, method=f"{ours}.Tell", code="OK") == 3
    assert value(found, requests, method=f"{ours}.History", code="OK") == 1
    assert value(found, requests, method=f"{ours}.Summary", code="NOT_FOUND") == 1
    assert value(found, requests, method="optuna.StorageService.GetAllStudies", code="OK") == 1
    assert value(found, "trialfleet_proxy_request_seconds_count", method=f"{ours}.Ask") == 3
    assert value(found, "trialfleet_proxy_waiting_calls") == 0
    assert value(found, "trialfleet_proxy_waiting_commands") == 0
    assert value(found, "trialfleet_proxy_commands_total") == 8
    assert 1 <= value(found, "trialfleet_proxy_commits_total") <= 8
    assert value(found, "trialfleet_proxy_history_logs") == 1
    assert 0 < value(found, "trialfleet_proxy_history_bytes") < 1000
