"""PodDisruptionBudgets: what a node drain, or a scale-down of nodes, may evict of a storage.

Proxies of a DaemonSet get none: a drain passes them over, and they go with their node.
"""

from trialfleet import names
from trialfleet.api.study_storage import StudyStorageSpec
from trialfleet.controller.build import postgres_server, proxies
from trialfleet.kube.objects import Object, Owner


def build_budgets(owner: Owner, spec: StudyStorageSpec, *, needed: bool) -> list[Object]:
    """Return the budgets of a storage. ``needed``: its PostgreSQL is, now.

    CloudNativePG makes those of its servers itself.
    """
    budgets = []
    if spec.postgres.managed is not None:
        labels = postgres_server.selector(owner)
        name = names.postgres_name(owner.name)
        # There is one server: to evict it is to stop all workers until it is back, or to lose all
        # trials if they are in an emptyDir.
        allowed = 0 if needed else 1
        budgets.append(_budget(owner, name, names.COMPONENT_POSTGRES, labels, allowed))
    if spec.proxy.placement == "Shared":
        name, labels = names.proxy_name(owner.name), proxies.selector(owner)
        budgets.append(_budget(owner, name, names.COMPONENT_PROXY, labels, 1))
    return budgets


def _budget(
    owner: Owner, name: str, component: str, labels: dict[str, str], allowed: int
) -> Object:
    return owner.make(
        "policy/v1",
        "PodDisruptionBudget",
        name,
        component,
        spec={
            "maxUnavailable": allowed,
            "selector": {"matchLabels": labels},
            # One that does not work anyway holds up no drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    )
