"""Pods of a study whose storage encrypts get a token and the authority to trust."""

import dataclasses
from typing import Any

from tests.controller.observations import KEYS, NOW, OPTIONS, PROXIES, observed
from trialfleet import names
from trialfleet.controller.build import access
from trialfleet.controller.job_view import view_job
from trialfleet.controller.observed import StorageView, StudyObserved
from trialfleet.controller.plan import Plan
from trialfleet.controller.policies import startup
from trialfleet.controller.secrecy import Keys
from trialfleet.controller.study_plan import plan_study
from trialfleet.kube import reasons
from trialfleet.wire import tokens


def plan(seen: StudyObserved) -> Plan:
    return plan_study(seen, OPTIONS, KEYS, NOW)


def seen(**changes: Any) -> StudyObserved:
    storage = StorageView("s", True, reasons.AVAILABLE, "", PROXIES, tls=True)
    return observed(storage=storage, **changes)


def test_the_secret_is_made_once() -> None:
    planned = plan(seen())
    (secret,) = planned.once
    assert secret["immutable"]
    assert set(secret["stringData"]) == {"token", "ca.crt"}
    name = secret["metadata"]["name"]
    assert plan(seen(created=frozenset({name}))).once == ()


def test_the_token_opens_this_study_only() -> None:
    (secret,) = plan(seen()).once
    key = access.token_key(KEYS, access.StorageNames("ns", "s"), 1)
    assert tokens.check([key], secret["stringData"]["token"]) == tokens.Grant("q", "uid-q")


def test_workers_have_it() -> None:
    planned = plan(seen())
    (secret,) = planned.once
    spec = planned.objects[-1]["spec"]["template"]["spec"]
    (volume,) = [one for one in spec["volumes"] if "secret" in one]
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]
    env = {one["name"]: one.get("value") for one in spec["containers"][0]["env"]}
    assert env[names.ENV_TOKEN_FILE] == "/run/trialfleet/token"
    assert env[names.ENV_CA_FILE] == "/run/trialfleet/ca.crt"


def test_workers_are_replaced_if_the_operators_key_is_another() -> None:
    first = plan(seen()).objects[-1]
    other = plan_study(seen(), OPTIONS, Keys(b"1" * 32), NOW).objects[-1]
    annotation = names.ANNOTATION_CONTRACT
    assert (
        first["metadata"]["annotations"][annotation] != other["metadata"]["annotations"][annotation]
    )


def test_another_key_makes_another_token_and_replaces_the_workers() -> None:
    first, second = seen(), seen()
    assert second.storage is not None
    second = dataclasses.replace(second, storage=dataclasses.replace(second.storage, token_key=2))
    (secret,) = plan(second).once
    key = access.token_key(KEYS, access.StorageNames("ns", "s"), 2)
    assert tokens.check([key], secret["stringData"]["token"]) == tokens.Grant("q", "uid-q")
    assert secret["metadata"]["name"] != plan(first).once[0]["metadata"]["name"]
    jobs = [plan(one).objects[-1] for one in (first, second)]
    contracts = {job["metadata"]["annotations"][names.ANNOTATION_CONTRACT] for job in jobs}
    assert len(contracts) == 2


def test_a_study_made_anew_has_another_token_and_secret() -> None:
    (first,) = plan(seen()).once
    anew = dataclasses.replace(seen().subject, uid="uid-anew")
    (second,) = plan(seen(subject=anew)).once
    key = access.token_key(KEYS, access.StorageNames("ns", "s"), 1)
    assert tokens.check([key], second["stringData"]["token"]) == tokens.Grant("q", "uid-anew")
    assert second["metadata"]["name"] != first["metadata"]["name"]


def _before(**changes: Any) -> StudyObserved:
    """Return a study while a proxy of release 0.1.0 is there."""
    before = seen(**changes)
    assert before.storage is not None
    return dataclasses.replace(
        before, storage=dataclasses.replace(before.storage, uid_tokens=False)
    )


def test_while_a_proxy_knows_no_uids_the_token_bears_none() -> None:
    (secret,) = plan(_before()).once
    key = access.token_key(KEYS, access.StorageNames("ns", "s"), 1)
    assert tokens.check([key], secret["stringData"]["token"]) == tokens.Grant("q")
    assert startup.uid_of_token(_before(), KEYS) == ""


def test_workers_that_have_a_token_without_a_uid_keep_it() -> None:
    made = plan(_before()).objects[-1]
    made["metadata"]["uid"] = "uid-job"
    running = seen(jobs=(view_job(made),))
    assert startup.uid_of_token(running, KEYS) == ""
    assert startup.reach_of(running, KEYS).secret == _secret_of(made)
    assert not plan(running).removals
    gone = dataclasses.replace(view_job(made), deleting=True)
    assert startup.uid_of_token(seen(jobs=(gone,)), KEYS) == "uid-q"


def _secret_of(job: dict[str, Any]) -> str:
    volumes = job["spec"]["template"]["spec"]["volumes"]
    (volume,) = [one for one in volumes if "secret" in one]
    return str(volume["secret"]["secretName"])
