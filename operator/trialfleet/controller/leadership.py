"""Of several operators one acts, the one that holds a Lease; the others stand by.

The Lease is written as client-go's leader election does, so that every tool can read it. Clocks of
two machines are never compared: who stands by measures, by its own clock, for how long the Lease
has not changed. The holder gives up after two thirds of that time, so it has ended before another
begins, also when it could not reach the API server or was stopped meanwhile.

``kubernetes.aio.leaderelection`` (version 37) is not used: it measures by the wall clock, leads for
another 10 s after it has found another holder, and does not release the Lease when it stops.
"""

import asyncio
import datetime
import logging
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

from trialfleet.kube.cluster import Cluster, ClusterError
from trialfleet.kube.kinds import LEASE
from trialfleet.kube.objects import Object

_log = logging.getLogger(__name__)

_DEADLINE: Final = 2 / 3
"""Part of the Lease's duration for which a holder acts after it has begun to renew it."""
_PERIOD: Final = 1 / 6
"""Part of the Lease's duration between two renewals, or two looks of who stands by."""


class Leadership:
    """One operator's share in the election; on one event loop."""

    def __init__(
        self,
        cluster: Cluster,
        place: tuple[str, str],
        identity: str,
        duration_s: int,
        *,
        lost: Callable[[str], NoReturn],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``place`` is the Lease's namespace and name; ``lost`` ends the process, with the reason.

        ``identity`` must be no other operator's, before or after a restart.
        """
        self._cluster = cluster
        self._namespace, self._name = place
        self._identity = identity
        self._duration_s = duration_s
        self._lost = lost
        self._clock = clock
        self._mine: Object | None = None
        """The Lease as this operator wrote it last; None: it does not hold it."""
        self._until = 0.0
        """Until when it may act, by its clock."""
        self._seen: Any = None
        """What the Lease said last while another held it, and since when it says so."""
        self._seen_at = 0.0

    @property
    def held(self) -> bool:
        """Whether this operator may act."""
        return self._mine is not None and self._clock() < self._until

    def check(self) -> None:
        """End the process if this operator may not act any more. To be called before each write."""
        if not self.held:
            self._lost(f"the Lease {self._name} was not renewed in time")

    async def acquire(self) -> None:
        """Stand by until the Lease is this operator's.

        Raises :class:`~trialfleet.kube.cluster.ClusterError` if it may not read or write it.
        """
        told = ""
        while True:
            try:
                if await self._attempt():
                    _log.info("holds the Lease %s/%s", self._namespace, self._name)
                    return
                text = f"stands by: {_holder(self._seen)} holds the Lease {self._name}"
            except ClusterError as error:
                if error.code == 403:
                    raise
                text = f"stands by: {error}"
            if text != told:
                told = text
                _log.info("%s", text)
            await asyncio.sleep(self._pause_s())

    async def hold(self) -> None:
        """Renew the Lease until cancelled; the process ends if that does not succeed in time."""
        while True:
            await asyncio.sleep(self._duration_s * _PERIOD)
            self.check()
            try:
                await self._attempt()
            except Exception as error:
                # Whatever it is, the next attempt is as good; if none succeeds the time runs out.
                _log.warning("the Lease %s was not renewed: %s", self._name, error)
            self.check()

    async def release(self) -> None:
        """Let another operator take the Lease at once."""
        if self._mine is None or not self.held:
            return
        spec = {**self._mine["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            async with asyncio.timeout(self._duration_s * _PERIOD):
                await self._cluster.replace({**self._mine, "spec": spec})
        except (ClusterError, TimeoutError) as error:
            _log.warning("the Lease %s was not released: %r", self._name, error)
        self._mine = None

    def _pause_s(self) -> float:
        """Return when to look again: after a while, or when the Lease runs out."""
        left = self._seen_at + _duration_s(self._seen) - self._clock()
        return max(0.0, min(self._duration_s * _PERIOD, left if left > 0 else self._duration_s))

    async def _attempt(self) -> bool:
        """Take or renew the Lease; whether it is held."""
        try:
            # A request without an answer must leave time for another one.
            async with asyncio.timeout(self._duration_s * _DEADLINE / 2):
                return await self._take_or_renew()
        except TimeoutError:
            raise ClusterError(0, "Unreachable", "the API server did not answer") from None

    async def _take_or_renew(self) -> bool:
        if self._mine is not None and await self._write(self._mine):
            return True
        found = await self._cluster.get(LEASE, self._namespace, self._name)
        if found is None:
            return await self._write(None)
        spec = found.get("spec", {})
        holder = _holder(spec)
        if self._mine is not None and holder != self._identity:
            self._lost(f"the Lease {self._name} is held by {holder or 'nobody'}")
        if spec != self._seen:
            self._seen, self._seen_at = spec, self._clock()
        others = holder not in ("", self._identity)
        if others and self._clock() < self._seen_at + _duration_s(spec):
            return False
        return await self._write(found)

    async def _write(self, found: Object | None) -> bool:
        """Write the Lease as this operator's; False if it is not any more what was found."""
        sent, now = self._clock(), _micro_time()
        before = {} if found is None else found.get("spec", {})
        spec = {
            **before,
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._duration_s,
            "renewTime": now,
        }
        if _holder(before) != self._identity:
            spec |= {"acquireTime": now, "leaseTransitions": _transitions(found)}
        if found is None:
            metadata = {"name": self._name, "namespace": self._namespace}
            lease = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata}
            written = await self._cluster.create({**lease, "spec": spec})
        else:
            written = await self._cluster.replace({**found, "spec": spec})
        if written is None:
            return False
        self._mine = written
        self._until = sent + self._duration_s * _DEADLINE
        return True


def _holder(spec: Any) -> str:
    return str((spec or {}).get("holderIdentity") or "")


def _duration_s(spec: Any) -> float:
    """Return how long its holder may leave a Lease as it is: as the holder said."""
    return float((spec or {}).get("leaseDurationSeconds") or 0)


def _transitions(found: Object | None) -> int:
    """Return how often the Lease has changed hands, once it has done so again."""
    if found is None:
        return 0
    return int(found.get("spec", {}).get("leaseTransitions") or 0) + 1


def _micro_time() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
