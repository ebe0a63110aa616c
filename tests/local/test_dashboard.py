"""Studies in a browser: what its page asks for, over HTTP."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.study import StudyDirection

from tests.local.conftest import Start
from tests.local.running import run


@pytest.fixture
def filled_url(database_url: str) -> str:
    """URL of a database with two studies, one of them with a front."""
    storage = optuna.storages.RDBStorage(database_url)
    one = optuna.create_study(study_name="one", storage=storage)
    trial = one.ask()
    x = trial.suggest_float("x", 0, 1)
    trial.report(2.0, 1)
    one.tell(trial, x)
    directions = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
    two = optuna.create_study(study_name="two", storage=storage, directions=directions)
    for values in ((1.0, 5.0), (0.5, 9.0), (0.1, 1.0)):
        two.tell(two.ask(), values)
    storage.engine.dispose()
    return database_url


def ask(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    """Return the status code and the body of an answer."""
    body = b"{}" if method in ("POST", "PUT") else None
    headers |= {"Content-Type": "application/json", "Accept-Encoding": "gzip"}
    request = urllib.request.Request(f"{address}{path}", body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def read(address: str, path: str, **headers: str) -> Any:
    code, body = ask(address, path, **headers)
    assert code == 200, body
    return json.loads(body)


def test_a_database(start: Start, filled_url: str) -> None:
    running = start(["dashboard", "two", "--storage", filled_url, "--no-browser"])
    found = running.wait_for(
        r"^(http://127\.0\.0\.1:(\d+))(/dashboard/studies/(\d+))\?key=(\S+) \(Ctrl-C"
    )
    address, port, page, study_id, key = found.groups()
    # A browser opens the address, and is sent on with a cookie.
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with browser.open(f"{address}{page}?key={key}", timeout=60) as answer:
        assert answer.url == f"{address}{page}" and b"<html" in answer.read()
    cookie = {"Cookie": f"trialfleet-{port}={key}"}
    listed = read(address, "/api/studies", **cookie)["study_summaries"]
    ids = {study["study_name"]: study["study_id"] for study in listed}
    assert ids.keys() == {"one", "two"} and ids["two"] == int(study_id)
    two = read(address, f"/api/studies/{study_id}", **cookie)
    assert [trial["number"] for trial in two["best_trials"]] == [1, 2]
    one = read(address, f"/api/studies/{ids['one']}", **cookie)
    assert one["trials"][0]["intermediate_values"] == [{"step": 1, "value": 2.0}]

    # Nothing is changed there, and by no page of elsewhere read.
    for method, path in (
        ("DELETE", f"/api/studies/{study_id}"),
        ("PUT", f"/api/studies/{study_id}/note"),
        ("POST", "/api/studies"),
        ("POST", "/incompatible-rdb-schema"),
    ):
        code, told = ask(address, path, method, **cookie)
        assert (code, told) == (403, b'{"reason": "this dashboard only reads"}')
    for path, shown in (
        ("/api/studies", {}),
        ("/api/studies?key=other", {}),
        ("/api/studies", {"Cookie": f"trialfleet-{port}=other"}),
        ("/api/studies", {"Cookie": f"trialfleet-1={key}"}),
        ("/api/studies", {"Cookie": "a=b;;=;\x01"}),
    ):
        code, told = ask(address, path, **shown)
        assert code == 403 and b"with its key" in told
    code, told = ask(address, "/api/studies", Host="attacker.example", **cookie)
    assert code == 403 and b"found the host 'attacker.example', accepted: 127.0.0.1:" in told

    taken = run(
        ["dashboard", "--storage", filled_url, "--no-browser", "--port", port], Path("/tmp")
    )
    assert taken.returncode == 2
    assert taken.stderr == f"--port: found {port}: Address already in use, accepted: 0\n"
    running.interrupt()
    assert running.wait() == 0
    assert running.lines[-1].endswith("(Ctrl-C ends it)")
