"""Backups of a managed PostgreSQL: what is planned, and what its containers do to a real one."""

import dataclasses
import datetime
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.controller.conftest import execute
from tests.controller.observations import (
    KEYS,
    NOW,
    OPTIONS,
    ago,
    conditions,
    made,
    pod,
    removed,
    storage_observed,
    workload,
)
from tests.storage.conftest import template, url
from tests.storage.fleet import check, query, stock
from tests.transfer.studies import everything, fill
from trialfleet import names
from trialfleet.controller.backup_view import view_backups
from trialfleet.controller.observed import BackupView, StorageObserved
from trialfleet.controller.plan import Plan
from trialfleet.controller.policies.leftovers import note_of_volume
from trialfleet.controller.storage_plan import plan_storage
from trialfleet.kube import reasons
from trialfleet.kube.objects import Object
from trialfleet.kube.pod_status import Trouble
from trialfleet.kube.times import timestamp
from trialfleet.local.postgres import find_binaries

__all__ = ["template", "url"]

SPEC = {"backup": {"schedule": "30 2 * * *", "keep": 2}, "security": {"tls": False}}


def plan(spec: dict[str, Any] | None = None, **changes: Any) -> Plan:
    """Return the plan for a storage that has been ready for an hour."""
    there = {"postgres": workload(1, 1), "proxies": workload(1, 1)}
    seen = storage_observed({**SPEC, **(spec or {})}, **{**there, **changes})
    if "subject" not in changes:
        status = {"phase": "Ready", "conditions": [condition("Ready", "True")]}
        subject = dataclasses.replace(seen.subject, created=ago(3600), status=status)
        seen = dataclasses.replace(seen, subject=subject)
    return plan_storage(seen, OPTIONS, KEYS, NOW)


def condition(kind: str, status: str, message: str = "") -> Object:
    moment = timestamp(ago(3600))
    told = {"type": kind, "status": status, "reason": "x", "lastTransitionTime": moment}
    return {**told, "message": message}


def hashes(planned: Plan) -> set[str]:
    return {
        one["metadata"]["annotations"][names.ANNOTATION_HASH]
        for one in planned.objects
        if one["kind"] == "CronJob"
    }


def cron_jobs(planned: Plan) -> dict[str, Object]:
    return {
        one["metadata"]["name"]: one["spec"] for one in planned.objects if one["kind"] == "CronJob"
    }


# -- what is planned -------------------------------------------------------------------------------


def test_two_cron_jobs_a_claim_and_a_policy() -> None:
    planned = plan()
    assert {
        "CronJob/s-tf-backup",
        "CronJob/s-tf-restore",
        "NetworkPolicy/s-tf-backup",
        "PersistentVolumeClaim/s-tf-backup",
    } <= set(made(planned))
    found = cron_jobs(planned)
    assert found["s-tf-backup"]["schedule"] == "30 2 * * *"
    assert found["s-tf-backup"]["timeZone"] == "Etc/UTC"
    assert found["s-tf-backup"]["suspend"] is False
    # Of this one Jobs are made by hand.
    assert found["s-tf-restore"]["suspend"] is True


def test_the_server_is_known_by_its_certificate() -> None:
    for spec in cron_jobs(plan({"security": {"tls": True}})).values():
        (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        environment = {one["name"]: one.get("value") for one in container["env"]}
        assert environment["PGHOST"] == "s-tpg.ns.svc"
        assert environment["PGSSLMODE"] == "verify-full"
        assert environment["PGSSLROOTCERT"] == "/run/trialfleet/ca.crt"
        assert environment["PGPASSWORD"] is None


@pytest.mark.parametrize(
    ("spec", "owned"),
    [({}, False), ({"retention": "Retain"}, False), ({"retention": "Delete"}, True)],
)
def test_the_claim_outlives_the_storage_unless_data_are_to_go(
    spec: dict[str, Any], owned: bool
) -> None:
    (claim,) = (one for one in plan(spec).once if one["kind"] == "PersistentVolumeClaim")
    assert ("ownerReferences" in claim["metadata"]) is owned
    assert claim["spec"]["resources"]["requests"]["storage"] == "10Gi"


def test_a_claim_that_is_there_is_used() -> None:
    backup = {**SPEC["backup"], "volume": {"claimName": "mine"}}  # type: ignore[dict-item]
    planned = plan({"backup": backup})
    assert "PersistentVolumeClaim/s-tf-backup" not in made(planned)
    for spec in cron_jobs(planned).values():
        (volume,) = spec["jobTemplate"]["spec"]["template"]["spec"]["volumes"]
        assert volume["persistentVolumeClaim"] == {"claimName": "mine"}


def test_what_is_not_asked_for_any_more_is_deleted() -> None:
    live = {
        f"CronJob/{name}": {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": {"name": name, "uid": f"uid-{name}"},
        }
        for name in ("s-tf-backup", "s-tf-restore")
    }
    assert removed(plan({"backup": None}, live=live)) == list(live)
    assert removed(plan(live=live)) == []


def test_the_dumps_that_are_left_are_named() -> None:
    status = {"database": {"trials": 3}}
    spec: dict[str, Any] = {"backup": SPEC["backup"]}
    storage = {"metadata": {"name": "s"}, "spec": spec, "status": status}
    note = note_of_volume(storage)
    assert note is not None
    assert note.message == (
        "the volume of 's' is kept, with 3 finished trials; the dumps of 's' are kept, as "
        "spec.retention says: a storage of its name takes them up again, and 'kubectl delete pvc "
        "data-s-tpg-0 s-tf-backup' deletes them"
    )
    spec |= {"postgres": {"managed": {"emptyDir": {}}}}
    note = note_of_volume(storage)
    assert note is not None
    assert "'kubectl delete pvc s-tf-backup'" in note.message
    assert note_of_volume({**storage, "spec": {"retention": "Delete"}}) is None


ENDED = {"idle": {"after": "10m"}}


@pytest.mark.parametrize(
    ("succeeded", "phase", "suspended"),
    [
        # Its last trials are in no dump: the next one is waited for.
        (None, "Ready", False),
        (ago(3000), "Ready", False),
        (ago(700), "Asleep", True),
    ],
)
def test_a_storage_sleeps_when_its_trials_are_in_a_dump(
    succeeded: datetime.datetime | None, phase: str, suspended: bool
) -> None:
    planned = plan(ENDED, ended=ago(800), backup=BackupView(succeeded))
    assert planned.status is not None
    assert planned.status["phase"] == phase
    assert cron_jobs(planned)["s-tf-backup"]["suspend"] is suspended


def test_no_dump_is_made_of_another_database() -> None:
    subject = storage_observed().subject
    status = {"phase": "Ready", "database": {"identity": "a", "trials": 9, "studies": 1}}
    lost = plan(subject=dataclasses.replace(subject, status=status), identity="b")
    assert conditions(lost)["Stalled"] == ("True", reasons.DATA_LOST)
    assert cron_jobs(lost)["s-tf-backup"]["suspend"] is True
    # By their hashes the operator knows that one has changed.
    assert len(hashes(lost) - hashes(plan())) == 1


# -- what is said ----------------------------------------------------------------------------------


def seen(*, before: str = "", **changes: Any) -> StorageObserved:
    base = storage_observed(SPEC, postgres=workload(1, 1), proxies=workload(1, 1), **changes)
    told = [condition("BackedUp", "False", before)] if before else []
    status = {"phase": "Ready", "conditions": [condition("Ready", "True"), *told]}
    return dataclasses.replace(base, subject=dataclasses.replace(base.subject, status=status))


def test_the_newest_dump_is_in_the_status() -> None:
    planned = plan_storage(seen(backup=BackupView(ago(60))), OPTIONS, KEYS, NOW)
    assert planned.status is not None
    assert planned.status["lastBackupTime"] == timestamp(ago(60))
    assert conditions(planned)["BackedUp"] == ("True", reasons.SUCCEEDED)
    assert planned.notes == ()
    assert conditions(plan())["BackedUp"] == ("False", reasons.NOT_YET)
    assert "BackedUp" not in conditions(plan({"backup": None}))


def test_a_failure_is_told_once() -> None:
    failure = BackupView(ago(90_000), "Job s-tf-backup-1: no space left on device")
    planned = plan_storage(seen(backup=failure), OPTIONS, KEYS, NOW)
    assert conditions(planned)["BackedUp"] == ("False", reasons.BACKUP_FAILED)
    # The storage itself serves.
    assert conditions(planned)["Ready"][0] == "True"
    assert conditions(planned)["Stalled"][0] == "False"
    (note,) = planned.notes
    assert (note.type, note.reason, note.message) == ("Warning", "BackupFailed", failure.failure)
    again = plan_storage(seen(backup=failure, before=failure.failure), OPTIONS, KEYS, NOW)
    assert again.notes == ()


def test_a_pod_that_can_not_start_is_told() -> None:
    trouble = Trouble(reasons.UNSCHEDULABLE, "no node has room")
    stuck = pod("b", component=names.COMPONENT_BACKUP, trouble=trouble, running=False, ready=False)
    planned = plan_storage(seen(pods=(stuck,)), OPTIONS, KEYS, NOW)
    assert conditions(planned)["BackedUp"] == ("False", reasons.UNSCHEDULABLE)
    assert conditions(planned)["Stalled"][0] == "False"


def job(name: str, end: str, began_s: float, ended_s: float, component: str = "backup") -> Object:
    ended = {"type": end, "status": "True", "lastTransitionTime": timestamp(ago(ended_s))}
    labels = {names.LABEL_COMPONENT: component}
    began = timestamp(ago(began_s))
    return {
        "metadata": {"name": name, "labels": labels, "creationTimestamp": began},
        "status": {"startTime": began, "conditions": [{**ended, "message": "too often"}]},
    }


def test_jobs_are_seen() -> None:
    assert view_backups({}, [], []) == BackupView()
    told = {"lastBackupTime": timestamp(ago(9000))}
    assert view_backups(told, [], []) == BackupView(ago(9000))
    complete, failed = job("a", "Complete", 300, 200), job("b", "Failed", 400, 100)
    restored = job("r", "Complete", 50, 40, component="restore")
    # A dump holds what was there when it began.
    assert view_backups(told, [complete, restored], []) == BackupView(ago(300))
    assert view_backups(told, [complete, failed], []) == BackupView(ago(300), "Job b: too often")
    ended = {"terminated": {"exitCode": 1, "message": "no space\n", "finishedAt": "x"}}
    words = {
        "metadata": {"labels": {"batch.kubernetes.io/job-name": "b"}},
        "status": {"containerStatuses": [{"state": ended}]},
    }
    assert view_backups(told, [failed], [words]).failure == "Job b: no space"
    # One that succeeded since is what counts.
    later = job("c", "Complete", 90, 80)
    assert view_backups(told, [complete, failed, later], [words]) == BackupView(ago(90))


# -- what the containers do ------------------------------------------------------------------------


@dataclasses.dataclass
class Pods:
    """Runs what the CronJobs run, on a database of the tests' server."""

    url: sa.URL
    folder: Path

    def run(self, name: str, code: int = 0, **environment: str) -> str:
        """Run the container of a CronJob; return what it said."""
        (container,) = cron_jobs(plan())[name]["jobTemplate"]["spec"]["template"]["spec"][
            "containers"
        ]
        given = {one["name"]: one.get("value", "") for one in container["env"]}
        place = {
            "PGHOST": str(self.url.query["host"]),
            "PGUSER": str(self.url.username),
            "PGDATABASE": str(self.url.database),
            "FOLDER": str(self.folder),
            "PATH": f"{find_binaries()}:{os.environ['PATH']}",
        }
        assert given.keys() - place.keys() == {
            *("PGPORT", "PGCONNECT_TIMEOUT", "PGPASSWORD", "LC_ALL"),
            *(("KEEP",) if name == "s-tf-backup" else ()),
        }
        done = subprocess.run(
            container["command"],
            env={**given, **place, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def dumps(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def pods(url: str, tmp_path: Path) -> Pods:
    return Pods(sa.make_url(url), tmp_path / "dumps")


def drop(pods: Pods, name: str) -> None:
    admin = pods.url.set(database="postgres").render_as_string(hide_password=False)
    execute(admin, f'DROP DATABASE "{name}" WITH (FORCE)')


def test_what_is_restored_is_what_was_dumped(pods: Pods, url: str) -> None:
    with stock(url) as storage:
        fill(storage)
        before = everything(storage)
    ((identity,),) = query(url, "SELECT identity FROM trialfleet_storage")
    pods.run("s-tf-backup")
    (dump,) = pods.dumps()
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        # Somebody who is connected is in nobody's way.
        connection.execute(sa.text("TRUNCATE trials CASCADE"))
        connection.execute(sa.text("DROP TABLE trialfleet_storage"))
        assert f"restoring {dump}" in pods.run("s-tf-restore")
        connection.invalidate()
    engine.dispose()
    with stock(url) as storage:
        assert everything(storage) == before
    assert query(url, "SELECT identity FROM trialfleet_storage") == [(identity,)]
    check(url)
    # What was there is kept until the next time, and a dump can be named.
    replaced = f"{pods.url.database}_replaced"
    assert pods.run("s-tf-restore", FILE=dump).endswith(f"the database {replaced}\n")
    aside = pods.url.set(database=replaced).render_as_string(hide_password=False)
    with pytest.raises(sa.exc.OperationalError, match="not currently accepting connections"):
        query(aside, "SELECT 1")
    drop(pods, replaced)


def test_a_restore_that_fails_changes_nothing(pods: Pods, url: str) -> None:
    with stock(url) as storage:
        fill(storage)
        before = everything(storage)
    pods.run("s-tf-backup")
    (dump,) = pods.dumps()
    whole = (pods.folder / dump).read_bytes()
    (pods.folder / "half.dump").write_bytes(whole[:-300])
    assert "could not read from input file" in pods.run("s-tf-restore", FILE="half.dump", code=1)
    said = pods.run("s-tf-restore", FILE="missing.dump", code=1)
    assert f"found no dump of a storage in {pods.folder}/missing.dump; the folder has:" in said
    assert dump in said
    with stock(url) as storage:
        assert everything(storage) == before
    drop(pods, f"{pods.url.database}_restored")


def test_the_newest_dumps_are_kept(pods: Pods) -> None:
    pods.run("s-tf-backup")
    (dump,) = pods.dumps()
    for name in ("20200101T000000Z.dump", "20200102T000000Z.dump", "mine.dump"):
        shutil.copy(pods.folder / dump, pods.folder / name)
    (pods.folder / "20200103T000000Z.dump.partial").write_text("of a pod that was lost")
    (pods.folder / dump).rename(pods.folder / "20200103T000000Z.dump")
    assert "20200103T000000Z.dump" in pods.run("s-tf-backup")
    first, newest, mine = pods.dumps()
    assert (first, mine) == ("20200103T000000Z.dump", "mine.dump")
    assert newest > first


def test_a_database_without_trialfleets_tables_takes_no_dumps_place(
    pods: Pods, database_url: str
) -> None:
    pods.run("s-tf-backup")
    kept = pods.dumps()
    empty = Pods(sa.make_url(database_url), pods.folder)
    said = empty.run("s-tf-backup", KEEP="1", code=1)
    assert "no tables of Trialfleet; the dumps of before are kept" in said
    gone = Pods(pods.url.set(database="nowhere"), pods.folder)
    assert 'database "nowhere" does not exist' in gone.run("s-tf-backup", KEEP="1", code=1)
    assert pods.dumps() == kept
