"""What the operator tells Prometheus."""

import pytest
from prometheus_client.exposition import generate_latest

from trialfleet.controller.operator_metrics import OperatorMetrics


def study(namespace: str, phase: str = "") -> dict[str, object]:
    status = {"phase": phase} if phase else {}
    return {"metadata": {"namespace": namespace, "name": "s"}, "status": status}


def test_reconciles_studies_and_requests() -> None:
    studies = [study("a", "Running"), study("a", "Running"), study("b")]
    metrics = OperatorMetrics(lambda: {"200": 5, "409": 1}, lambda: True)
    metrics.watch(lambda: studies)
    with metrics.reconcile("Study"):
        pass
    with pytest.raises(KeyError), metrics.reconcile("StudyStorage"):
        raise KeyError
    lines = generate_latest(metrics.registry).decode().splitlines()
    for line in (
        'trialfleet_operator_reconciles_total{kind="Study",outcome="done"} 1.0',
        'trialfleet_operator_reconciles_total{kind="StudyStorage",outcome="failed"} 1.0',
        'trialfleet_operator_reconcile_seconds_count{kind="Study"} 1.0',
        'trialfleet_operator_studies{namespace="a",phase="Running"} 2.0',
        'trialfleet_operator_studies{namespace="b",phase="Pending"} 1.0',
        "trialfleet_operator_leader 1.0",
        'trialfleet_operator_api_requests_total{code="200"} 5.0',
        'trialfleet_operator_api_requests_total{code="409"} 1.0',
    ):
        assert line in lines
