"""Which kinds of objects the operator watches."""

from typing import Final

from trialfleet.kube import kinds

OURS: Final = (kinds.STUDY, kinds.STORAGE)

CHILDREN: Final = (
    kinds.POD,
    kinds.CONFIG_MAP,
    kinds.JOB,
    kinds.CRON_JOB,
    kinds.SERVICE,
    kinds.STATEFUL_SET,
    kinds.DAEMON_SET,
    kinds.DEPLOYMENT,
    kinds.NETWORK_POLICY,
    kinds.DISRUPTION_BUDGET,
    kinds.CNPG,
)
"""Watched where they have a label of ours. Secrets are not: to watch them is to read them."""
