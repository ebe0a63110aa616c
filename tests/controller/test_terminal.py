"""Commands that read a cluster, through its API server."""

import json
import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml

from tests.controller.conftest import Operator, database, namespace
from tests.controller.kube import Object, wait_for
from tests.controller.standin.containers import data_of
from tests.controller.standin.standin import StandIn
from tests.controller.terminal import Terminal
from tests.scenarios.env import Env
from trialfleet import names
from trialfleet.wire import tokens
from trialfleet.wire.v1 import trialfleet_pb2 as pb
from trialfleet.wire.v1.trialfleet_pb2_grpc import TrialFleetStub


@pytest.fixture(scope="module")
def finished(standin: StandIn, operator: Operator, postgres_url: str) -> Iterator[Env]:
    """A namespace with a study that has ended."""
    with database(postgres_url) as url, namespace(standin, operator, url) as made:
        made.ready()
        made.study("digits", seconds=0)
        made.wait_condition("digits", "Complete")
        yield made


@pytest.fixture
def terminal(standin: StandIn, finished: Env, tmp_path: Path) -> Terminal:
    return Terminal(standin.kubeconfig, tmp_path, finished.kube.namespace)


def test_the_only_study(terminal: Terminal, finished: Env) -> None:
    code, output, told = terminal.run("best", "--output", "json", "--limit", "2")
    assert (code, told) == (0, f"looking at namespace {terminal.namespace}, context it\n")
    best = json.loads(output)
    status = finished.status("digits")
    assert best[0]["number"] == status["best"][0]["number"]
    assert len(best) == 2
    listed = terminal.good("trials", "digits", "--output", "csv").splitlines()
    assert len(listed) == 13 and listed[0].startswith("number,state,loss,")


def test_the_studies_of_a_namespace(terminal: Terminal) -> None:
    assert json.loads(terminal.good("studies", "--output", "json")) == [
        {
            "name": "digits",
            "objectives": {"loss": "minimize"},
            "trials": {"running": 0, "complete": 12, "pruned": 0, "fail": 0, "waiting": 0},
        }
    ]
    told = terminal.bad("studies", "--delete", "digits")
    assert "kubectl delete study digits -n " in told


def test_a_picture(terminal: Terminal) -> None:
    assert terminal.good("plot", "digits", "--kind", "slice") == "digits-slice.png\n"
    assert (terminal.folder / "digits-slice.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_left_on_the_disk(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(terminal.folder))
    terminal.good("best", "digits")
    assert list(terminal.folder.iterdir()) == []


def test_a_name_that_is_none(terminal: Terminal) -> None:
    told = terminal.bad("best", "digit")
    assert told == (
        f"STUDY: found 'digit', accepted in namespace {terminal.namespace}, context it: digits"
    )
    told = terminal.bad("best", at=("--namespace", "empty"))
    assert told.startswith("STUDY: there is no study in namespace empty, context it; accepted: ")
    assert "trialfleet submit FILE" in told


def test_no_kubeconfig(terminal: Terminal) -> None:
    terminal.kubeconfig = terminal.folder / "none"
    told = terminal.bad("best", at=("--namespace", "here"))
    assert told.startswith(f"kubeconfig: {terminal.kubeconfig}: ")
    assert "KUBECONFIG" in told
    told = terminal.bad("best", at=())
    assert told.startswith("--data .trialfleet: no data of 'trialfleet run', accepted: ")


def test_a_context_that_is_none(terminal: Terminal) -> None:
    told = terminal.bad("best", at=("--context", "that"))
    assert told == "--context: found 'that', accepted: it"


def test_two_places_at_once(terminal: Terminal) -> None:
    told = terminal.bad("best", "--data", ".")
    assert told == "--namespace: found beside --data, accepted: one of the two"


def test_no_api_server(terminal: Terminal) -> None:
    settings = yaml.safe_load(terminal.kubeconfig.read_text())
    settings["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:1"
    terminal.kubeconfig = terminal.folder / "kubeconfig.yaml"
    terminal.kubeconfig.write_text(yaml.safe_dump(settings))
    told = terminal.bad("best", code=3)
    assert told.startswith("no answer from the API server at http://127.0.0.1:1 (context it): ")
    assert "Connection refused" in told


def test_an_encrypted_storage(terminal: Terminal, finished: Env) -> None:
    spec: Object = {"postgres": {"external": {"secretRef": {"name": "database"}}}}
    spec |= {"proxy": {"placement": "Shared"}, "security": {"tls": True}}
    sealed = {"apiVersion": names.API_VERSION, "kind": "StudyStorage", "spec": spec}
    finished.kube.create("studystorages", {**sealed, "metadata": {"name": "sealed"}})
    finished.ready("sealed")
    finished.study("secret", storage={"name": "sealed"}, parallelism=0)
    finished.wait_condition("secret", "StorageReady")
    wait_for("its token", lambda: finished.kube.list("secrets", study="secret"))
    assert terminal.good("trials", "secret", "--output", "json") == "[]\n"
    told = terminal.bad("trials", "secret", at=_somebody(terminal, "no-secrets"))
    assert told.startswith("secrets is forbidden: ") and "docs/terminal.md has a Role" in told


def test_a_study_made_anew_is_not_opened_by_the_token_that_it_had(
    finished: Env,
) -> None:
    spec: Object = {"postgres": {"external": {"secretRef": {"name": "database"}}}}
    spec |= {"proxy": {"placement": "Shared"}, "security": {"tls": True}}
    made = {"apiVersion": names.API_VERSION, "kind": "StudyStorage", "spec": spec}
    finished.kube.create("studystorages", {**made, "metadata": {"name": "anew"}})
    finished.ready("anew")

    def begin() -> Object:
        """Make the study; return its Secret when the storage is told of it."""
        finished.study("again", storage={"name": "anew"}, parallelism=0)
        wait_for("its trials", lambda: "trials" in finished.status("again"))
        (secret,) = wait_for("its token", lambda: finished.kube.list("secrets", study="again"))
        return data_of(secret)

    def ask(secret: Object) -> list[str]:
        """Return the studies that its token opens."""
        (pod,) = finished.kube.list("pods", storage="anew", component="proxy")
        name = names.proxy_host("anew", finished.kube.namespace)
        with grpc.secure_channel(
            f"{pod['status']['podIP']}:{names.PROXY_PORT}",
            grpc.ssl_channel_credentials(secret["ca.crt"]),
            options=[("grpc.ssl_target_name_override", name)],
        ) as channel:
            metadata = (tokens.metadata(secret["token"].decode()),)
            call = TrialFleetStub(channel).ListStudies
            reply = call(pb.ListStudiesRequest(), metadata=metadata, timeout=20)
        return [study.name for study in reply.studies]

    old = begin()
    assert ask(old) == ["again"]
    finished.kube.delete("studies", "again")
    wait_for("gone", lambda: finished.kube.find("studies", "again") is None)
    wait_for("its token gone", lambda: not finished.kube.list("secrets", study="again"))
    # The trials of the earlier one are kept: whose they are now is what differs.
    assert ask(begin()) == ["again"]
    said = "the token is not of the Study 'again' that the storage has"

    def refused() -> bool:
        try:
            ask(old)
        except grpc.RpcError as error:
            return error.code() == grpc.StatusCode.PERMISSION_DENIED and said in str(
                error.details()
            )
        return False

    wait_for("refused", refused)


def test_the_key_of_tokens_is_replaced(terminal: Terminal, finished: Env) -> None:
    spec: Object = {"postgres": {"external": {"secretRef": {"name": "database"}}}}
    spec |= {"proxy": {"placement": "Shared"}, "security": {"tls": True}}
    made = {"apiVersion": names.API_VERSION, "kind": "StudyStorage", "spec": spec}
    finished.kube.create("studystorages", {**made, "metadata": {"name": "rotated"}})
    finished.ready("rotated")
    finished.study("turned", storage={"name": "rotated"}, parallelism=0)
    uid = finished.kube.get("studies", "turned")["metadata"]["uid"]

    def shown() -> set[str]:
        secrets = finished.kube.list("secrets", study="turned")
        return {data_of(secret)["token"].decode() for secret in secrets}

    def accepted() -> list[str]:
        """The keys in the Secret that proxies are to have."""
        proxies = finished.kube.get("deployments", names.proxy_service("rotated"))
        volumes = proxies["spec"]["template"]["spec"]["volumes"]
        (name,) = {one["secret"]["secretName"] for one in volumes if "secret" in one}
        return data_of(finished.kube.get("secrets", name))["token.key"].decode().split()

    def step(before: list[str]) -> str:
        said = ""

        def taken() -> bool:
            nonlocal said
            code, said, _ = terminal.run("storage", "rotate", "rotated")
            return code == 0

        wait_for("the step", taken)
        wait_for("other keys", lambda: accepted() != before)
        return said

    wait_for("its token", shown)
    (old,), (first,) = shown(), accepted()
    assert step([first]).startswith("rotated: step 1 of 3")
    one, two = accepted()
    assert one == first
    assert step([one, two]).startswith("rotated: step 2 of 3")
    assert accepted() == [two, one]
    wait_for("a new token", lambda: shown() - {old})
    assert tokens.check([two], *(shown() - {old})) == tokens.Grant("turned", uid)
    assert "opens nothing" in step([two, one])
    assert accepted() == [two]
    assert tokens.check([two], old) is None
    # Through the proxy that has the new key, when it is there.
    wait_for("its trials", lambda: terminal.run("trials", "turned")[0] == 0)
    told = terminal.bad("storage", "rotate", "none")
    assert told.startswith("NAME: found no StudyStorage 'none' in ")


def test_a_port_that_may_not_be_forwarded(terminal: Terminal) -> None:
    told = terminal.bad("best", "digits", at=_somebody(terminal, "no-forwarding"))
    assert "port-forward to pod 'shared-tf-proxy-" in told
    assert "pods/portforward" in told and "docs/terminal.md has a Role" in told


def _somebody(terminal: Terminal, token: str) -> list[str]:
    """Log in by a token; return the options that say where."""
    settings = yaml.safe_load(terminal.kubeconfig.read_text())
    settings["users"][0]["user"]["token"] = token
    terminal.kubeconfig = terminal.folder / "kubeconfig.yaml"
    terminal.kubeconfig.write_text(yaml.safe_dump(settings))
    return ["--namespace", terminal.namespace]


def test_no_proxy_is_ready(terminal: Terminal, finished: Env) -> None:
    finished.kube.create(
        "studystorages",
        {
            "apiVersion": names.API_VERSION,
            "kind": "StudyStorage",
            "metadata": {"name": "away"},
            "spec": {"postgres": {"external": {"secretRef": {"name": "nothing"}}}},
        },
    )
    finished.study("waits", storage={"name": "away"})
    told = terminal.bad("best", "waits", code=3)
    finished.kube.delete("studies", "waits")
    assert told.startswith("study 'waits': no proxy of the storage 'away' is ready (")
    assert told.endswith("what is in the way: trialfleet why waits")


def test_why_of_a_study_that_is_well(terminal: Terminal) -> None:
    page = terminal.good("why", "digits").splitlines()
    assert page[0] == "digits: Complete, 12/12 trials"
    assert page[page.index("In the way") + 1] == "  nothing"
    assert "raise spec.budget.trials" in page[page.index("In the way") + 2]
    assert "  2 proxy ready" in page


def test_why_of_an_objective_that_does_not_run(terminal: Terminal, finished: Env) -> None:
    finished.study("broken", "import nothing_of_that_name\n")
    finished.wait_condition("broken", "Failed")
    page = terminal.good("why", "broken").splitlines()
    finished.kube.delete("studies", "broken")
    assert page[0].startswith("broken: Failed")
    told = page[page.index("In the way") + 1]
    assert told.startswith("  ObjectiveImportFailed: Traceback ")
    way = page[page.index("In the way") : page.index("Conditions")]
    assert any("No module named 'nothing_of_that_name'" in line for line in way)
    assert any(line.startswith("    do: correct the objective's source") for line in way)
    pods = page[page.index("Pods") + 1 : page.index("Events") - 1]
    assert any(line.startswith("  broken-workers-1-") and ": Failed" in line for line in pods)
    assert "    worker: ended Error with exit code 4" in pods
    assert any(line.startswith("      | ") and "nothing_of_that_name" in line for line in pods)
    assert any("ObjectiveImportFailed" in line for line in page[page.index("Events") :])


def test_why_of_a_volume_that_is_missing(terminal: Terminal, finished: Env) -> None:
    volume = {"name": "data", "configMap": {"name": "absent"}}
    container = {"name": "worker", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    template = {"spec": {"containers": [container], "volumes": [volume]}}
    finished.study("unmounted", template=template)
    finished.wait_condition("unmounted", "Stalled")
    page = terminal.good("why", "unmounted").splitlines()
    finished.kube.delete("studies", "unmounted")
    told = page.index("In the way")
    assert page[told + 1].startswith("  ConfigMissing: 2 workers: ")
    assert page[told + 2].startswith(
        "    do: create the ConfigMap or Secret that the message names"
    )
    assert any("FailedMount" in line and "absent" in line for line in page[page.index("Events") :])


def test_a_dashboard(terminal: Terminal) -> None:
    with terminal.start("dashboard", "digits", "--no-browser") as running:
        assert running.stdout is not None
        printed = running.stdout.readline()
        address, study_id, key = re.findall(
            r"^(http://\S+)/dashboard/studies/(\d+)(\?\S+) ", printed
        )[0]
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with browser.open(f"{address}/api/studies/{study_id}{key}", timeout=60) as answer:
            study = json.load(answer)
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0
    assert (study["name"], len(study["trials"])) == ("digits", 12)
