"""What there is: the input of a plan. Frozen, and made of plain values."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trialfleet import names
from trialfleet.api.base import Condition
from trialfleet.api.study import Study
from trialfleet.api.study_storage import StudyStorage
from trialfleet.client.answers import Summary
from trialfleet.controller.conditions import conditions_of, is_true
from trialfleet.controller.job_view import JobView
from trialfleet.controller.pod_view import PodView
from trialfleet.kube.objects import Owner
from trialfleet.kube.pod_status import Trouble


@dataclass(frozen=True, slots=True)
class Subject:
    """The object that a plan is for, without its spec."""

    kind: str
    name: str
    namespace: str
    uid: str
    generation: int
    created: datetime.datetime
    status: Mapping[str, Any]
    """As it was read last."""

    @property
    def owner(self) -> Owner:
        """As the owner of objects."""
        return Owner(self.kind, self.name, self.namespace, self.uid)

    @property
    def conditions(self) -> list[Condition]:
        """The conditions of the status as it was read last."""
        return conditions_of(self.status)

    def has(self, condition: str) -> bool:
        """Whether a condition was true when the status was read last."""
        return is_true(self.conditions, condition)


@dataclass(frozen=True, slots=True)
class StorageView:
    """The storage of a study, as the study sees it."""

    name: str
    ready: bool
    reason: str
    """Why it is not ready: one of ``reasons``."""
    message: str
    proxies: str
    """Where workers find the proxies, the nearest first."""
    tls: bool
    """Its proxies encrypt and ask for tokens."""
    token_key: int = 1
    """Number of the key that tokens are made with."""
    uid_tokens: bool = True
    """All of its proxies know tokens that bear the uid of a Study."""


@dataclass(frozen=True, slots=True)
class StudyObserved:
    """All that a plan for a study depends on."""

    subject: Subject
    study: Study | None
    """None if the spec is refused."""
    refusal: str = ""
    storage: StorageView | None = None
    """None if there is none of that name."""
    ensured: bool = False
    """The storage knows the study as its spec is now."""
    found: int = 0
    """Trials of an earlier study of this name that the storage had when it was told."""
    blocked: Trouble | None = None
    """Why it could not be made known."""
    summary: Summary | None = None
    """None: no proxy answered."""
    jobs: tuple[JobView, ...] = ()
    pods: tuple[PodView, ...] = ()
    """Also those that are gone and whose end was not reported yet."""
    reported: frozenset[str] = frozenset()
    """Uids of pods whose end was reported to a proxy."""
    served: frozenset[str] = frozenset()
    """Uids of those among them whose worker had a session before."""
    troubles: tuple[Trouble, ...] = ()
    """What Events say is in the way of this study's objects, the newest last."""

    created: frozenset[str] = frozenset()
    """Names of Secrets that are there."""
    short_since: Mapping[str, datetime.datetime] = field(default_factory=dict)
    """Since when a Job of workers has fewer pods than it should, by its uid."""

    def jobs_for(self, component: str) -> list[JobView]:
        """Return the Jobs of a component, the oldest first."""
        found = [job for job in self.jobs if job.component == component]
        return sorted(found, key=lambda job: job.index)

    @property
    def workers(self) -> list[PodView]:
        """The pods of workers."""
        return [pod for pod in self.pods if pod.component == names.COMPONENT_WORKER]

    @property
    def alive(self) -> list[PodView]:
        """The pods of workers that run, or are about to."""
        return [pod for pod in self.workers if self.lives(pod)]

    def lives(self, pod: PodView) -> bool:
        """Whether a pod has neither ended nor was given up, as one on a lost node is."""
        return pod.end is None and pod.uid not in self.reported


@dataclass(frozen=True, slots=True)
class WorkloadView:
    """A StatefulSet, DaemonSet or Deployment: how much of it is there."""

    desired: int
    ready: int
    updated: bool
    """The controller has seen the newest spec."""


@dataclass(frozen=True, slots=True)
class BackupView:
    """What is known of the dumps of a storage's database."""

    succeeded: datetime.datetime | None = None
    """When the newest one was begun: what was there then is in it."""
    failure: str = ""
    """Why the newest Job came to nothing; empty: it did not."""


@dataclass(frozen=True, slots=True)
class StorageObserved:
    """All that a plan for a storage depends on."""

    subject: Subject
    storage: StudyStorage | None
    """None if the spec is refused."""
    refusal: str = ""
    postgres: WorkloadView | None = None
    proxies: WorkloadView | None = None
    live: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Objects that exist, by ``Kind/name``."""
    pods: tuple[PodView, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    studies: int = 0
    workers: int = 0
    """Workers of all studies that use it."""
    cnpg_installed: bool = False
    busy: bool = False
    """One of them has not ended, or may go on."""
    runs: bool = False
    """One of them has workers, or is to have some."""
    ended: datetime.datetime | None = None
    """When the last of them ended."""
    woken: datetime.datetime | None = None
    """When somebody asked for it."""
    trials: int = 0
    """Finished ones of these studies, as their status was read last."""
    identity: str = ""
    """Of the database that a proxy serves now."""
    proxy_error: str = ""
    """What a proxy that is not ready says is wrong."""
    backup: BackupView = BackupView()
    """Of its dumps."""
    created: frozenset[str] = frozenset()
    """Names of Secrets and claims that are there."""
