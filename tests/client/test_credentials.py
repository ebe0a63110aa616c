"""A client that shows a token and knows its proxies by their authority."""

import datetime
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tests.client.fake import FakeProxy
from tests.proxy.running import TIMEOUT_S, Running
from trialfleet import names
from trialfleet.client import FleetStorage, StudyDefinition
from trialfleet.model import errors
from trialfleet.wire import certificates, tokens
from trialfleet.wire.credentials import CredentialFiles

KEY, NEW_KEY = "k" * 32, "n" * 32
MINIMIZE = [StudyDirection.MINIMIZE]


class Secured:
    """A proxy with encryption and tokens, and the files of its clients."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.key, self.token, self.ca = folder / "key", folder / "token", folder / "ca"
        self.key.write_text(KEY)
        self.issue(b"a")
        self.show(tokens.for_study(KEY, "mine"))
        self.start()
        self._admin = folder / "admin"
        self._admin.write_text(tokens.for_admin(KEY))
        with_admin = self.connect(token_file=self._admin)
        for study in ("mine", "other"):
            with_admin.ensure_study(StudyDefinition(study, MINIMIZE))
        with_admin.close()

    def start(self, listen: Any = None) -> None:
        options = {} if listen is None else {"listen": listen}
        self.proxy = Running(
            self.url,
            tls=(self.folder / "crt", self.folder / "pem"),
            token_key=self.key,
            **options,
        )
        assert self.proxy.connected.wait(TIMEOUT_S)

    def issue(self, seed: bytes) -> None:
        """Write a certificate of the authority of a seed, and the authority's own."""
        now = datetime.datetime.now(datetime.UTC)
        key = certificates.derive_key(seed * 32)
        authority = certificates.make_authority("storage", key, now)
        issued = certificates.issue(authority, ["127.0.0.1", "storage-proxy.team"], key, now)
        (self.folder / "crt").write_bytes(issued.certificate_pem)
        (self.folder / "pem").write_bytes(issued.key_pem)
        self.authority = authority.certificate_pem
        self.trust(self.authority)

    def trust(self, authorities: bytes) -> None:
        self._replace(self.ca, authorities)

    def show(self, token: str) -> None:
        self._replace(self.token, f"{token}\n".encode())

    def connect(self, **options: Any) -> FleetStorage:
        given: dict[str, Any] = {"token_file": self.token, "ca_file": self.ca, "patience_s": 20.0}
        return FleetStorage(self.proxy.target, **given | options)

    def _replace(self, path: Path, content: bytes) -> None:
        new = path.with_suffix(".new")
        new.write_bytes(content)
        os.replace(new, path)


@pytest.fixture
def secured(database_url: str, tmp_path: Path) -> Iterator[Secured]:
    secured = Secured(database_url, tmp_path)
    yield secured
    secured.proxy.stop()


@pytest.fixture
def mine(secured: Secured) -> Iterator[FleetStorage]:
    """A storage object with the token of the study ``mine``."""
    storage = secured.connect(study="mine")
    yield storage
    storage.close()


def _objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0, 1)
    trial.report(x, 0)
    trial.set_user_attr("square", x * x)
    return x * x


def test_a_study_is_optimized_with_its_token(mine: FleetStorage) -> None:
    study = optuna.load_study(study_name=None, storage=mine)
    assert study.study_name == "mine"
    study.optimize(_objective, n_trials=3)
    assert len(study.trials) == 3 and study.best_value == study.best_trial.user_attrs["square"]
    assert mine.summary(study._study_id).counts.complete == 3


def test_a_session_needs_no_name_of_the_study(secured: Secured) -> None:
    storage = secured.connect()
    optuna.load_study(study_name="mine", storage=storage).optimize(_objective, n_trials=1)
    storage.close()


def test_the_environment_says_where_the_files_are(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(names.ENV_TOKEN_FILE, str(secured.token))
    monkeypatch.setenv(names.ENV_CA_FILE, str(secured.ca))
    storage = FleetStorage(secured.proxy.target, study="mine")
    assert storage.get_study_name_from_id(storage.get_study_id_from_name("mine")) == "mine"
    storage.close()
    without = FleetStorage(secured.proxy.target, token_file="", patience_s=0)
    with pytest.raises(errors.Unauthenticated, match="found no token"):
        without.get_all_studies()
    without.close()
    plain = FleetStorage(secured.proxy.target, token_file="", ca_file="", patience_s=0)
    with pytest.raises(errors.StorageUnavailable, match="no proxy answered within 0 s"):
        plain.get_all_studies()
    plain.close()


def test_a_name_to_expect_may_be_given(secured: Secured) -> None:
    storage = secured.connect(server_name="storage-proxy.team")
    assert len(storage.get_all_studies()) == 1
    storage.close()
    other = secured.connect(server_name="other-proxy.team", patience_s=0)
    with pytest.raises(errors.StorageUnavailable, match="Hostname Verification"):
        other.get_all_studies()
    other.close()


def test_another_study_is_refused_at_once(secured: Secured, mine: FleetStorage) -> None:
    with pytest.raises(errors.PermissionDenied, match="the token opens the study 'mine' only"):
        mine.get_study_id_from_name("other")
    with pytest.raises(errors.PermissionDenied, match="this call takes the operator's"):
        mine.create_new_study(MINIMIZE, "new")
    storage = secured.connect(study="other")
    with pytest.raises(errors.PermissionDenied, match="the token opens the study 'mine' only"):
        _ = storage.ordinal
    storage.close()


def test_a_wrong_token_is_told_within_seconds(secured: Secured) -> None:
    secured.show(tokens.for_study(NEW_KEY, "mine"))
    storage = secured.connect(patience_s=600)
    began = time.monotonic()
    with pytest.raises(errors.Unauthenticated) as caught:
        storage.get_all_studies()
    assert time.monotonic() - began < 20
    assert str(caught.value) == (
        f"{secured.proxy.target}: UNAUTHENTICATED: found a token that is unknown here, "
        "accepted: a study's own"
    )
    assert errors.exit_code(caught.value) == errors.EXIT_UNAVAILABLE
    storage.close()


def test_a_token_is_changed_while_a_trial_runs(
    secured: Secured, mine: FleetStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialfleet.wire.connection._UNKNOWN_S", 60.0)
    study_id = mine.get_study_id_from_name("mine")
    trial_id = mine.ask(study_id)
    assert trial_id is not None
    # The client's file first, as with two Secrets that reach their pods at different times.
    secured.show(tokens.for_study(NEW_KEY, "mine"))
    secured.key.write_text(NEW_KEY)
    _wait_until_unknown(secured)
    assert mine.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    assert mine.summary(study_id).counts.complete == 1


def _wait_until_unknown(secured: Secured) -> None:
    old = secured.connect(token_file=secured.folder / "admin", patience_s=0)
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            old.get_all_studies()
        except errors.Unauthenticated:
            old.close()
            return
        assert time.monotonic() < deadline


def test_a_stream_shows_the_token_too(mine: FleetStorage) -> None:
    study_id = mine.get_study_id_from_name("mine")
    assert mine.get_all_trials(study_id) == []
    assert mine.news(study_id) == []


def test_an_authority_is_changed_while_a_trial_runs(secured: Secured, mine: FleetStorage) -> None:
    study_id = mine.get_study_id_from_name("mine")
    trial_id = mine.ask(study_id)
    assert trial_id is not None
    old = secured.authority
    secured.issue(b"b")
    secured.trust(old)
    address = secured.proxy.proxy.address
    secured.proxy.stop()
    secured.start(address)
    with pytest.raises(errors.StorageUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        secured.connect(patience_s=0).get_all_studies()
    secured.trust(old + secured.authority)
    assert mine.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])


def test_a_copy_carries_paths_and_no_secrets(secured: Secured, mine: FleetStorage) -> None:
    pickled = pickle.dumps(mine)
    assert tokens.for_study(KEY, "mine").encode() not in pickled
    copy: BaseStorage = pickle.loads(pickled)
    assert len(copy.get_all_studies()) == 1
    copy.close()  # type: ignore[attr-defined]


def _command(secured: Secured, *arguments: str) -> tuple[int, str, str]:
    result = subprocess.run(
        [sys.executable, "-m", "trialfleet.cli.main", *arguments],
        env={
            **os.environ,
            names.ENV_CA_FILE: str(secured.ca),
            names.ENV_PROXY: secured.proxy.target,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    return result.returncode, result.stdout, result.stderr


def test_a_worker_and_the_commands_that_read(secured: Secured, tmp_path: Path) -> None:
    objective = tmp_path / "objective.py"
    objective.write_text("def objective(trial):\n    trial.study.stop()\n    return 1.5\n")
    token = ("--token-file", str(secured.token))
    worker = ("worker", "--objective", str(objective))
    code, _, err = _command(secured, *worker, "--study", "mine", *token)
    assert code == 0, err
    code, out, err = _command(
        secured, "trials", "mine", "--proxy", secured.proxy.target, *token, "--output", "json"
    )
    assert (code, err) == (0, "") and '"values"' in out
    code, out, err = _command(secured, *worker, "--study", "other", *token)
    assert code == errors.EXIT_INVALID
    assert err.splitlines()[-1] == "the token opens the study 'mine' only"
    secured.show("nonsense")
    code, out, err = _command(secured, *worker, "--study", "mine", *token)
    assert code == errors.EXIT_UNAVAILABLE, err
    assert err.splitlines()[-1].endswith(
        "found a token that is unknown here, accepted: a study's own"
    )


def test_an_unknown_token_is_shown_again_for_a_while(
    fake: FakeProxy, connect: Callable[..., FleetStorage], tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("token")
    storage = connect(fake, token_file=token)
    fake.refuse("CreateStudy", *[grpc.StatusCode.UNAUTHENTICATED] * 3)
    storage.create_new_study(MINIMIZE)
    assert fake.counts()["CreateStudy"] == 4


def test_who_has_no_token_is_told_at_once(
    fake: FakeProxy, connect: Callable[..., FleetStorage]
) -> None:
    storage = connect(fake, patience_s=600)
    fake.refuse("CreateStudy", grpc.StatusCode.UNAUTHENTICATED)
    with pytest.raises(errors.Unauthenticated):
        storage.create_new_study(MINIMIZE)
    assert fake.counts()["CreateStudy"] == 1


def test_a_session_outlives_a_token_that_is_unknown_for_a_while(
    fake: FakeProxy, connect: Callable[..., FleetStorage]
) -> None:
    storage = connect(fake, time_to_live_s=0.4)
    study_id = storage.create_new_study(MINIMIZE)
    fake.refuse("KeepAlive", *[grpc.StatusCode.UNAUTHENTICATED] * 2)
    fake.wait_for("KeepAlive", 4)
    assert storage.ask(study_id) is not None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("token_file", None, "token_file: {path}: No such file or directory"),
        ("token_file", b"", "token_file: {path}: accepted: one token"),
        ("token_file", b"two tokens", "token_file: {path}: accepted: one token"),
        ("token_file", b"a\nb", "token_file: {path}: accepted: one token"),
        ("token_file", b"\xff", "token_file: {path}: accepted: one token"),
        ("ca_file", None, "ca_file: {path}: No such file or directory"),
        ("ca_file", b"x", "ca_file: {path}: accepted: certificates in PEM"),
    ],
)
def test_files_that_can_not_be_used(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(errors.InvalidInput) as caught:
        FleetStorage("host:1", **{name: path})  # type: ignore[arg-type]
    assert str(caught.value) == message.format(path=path)


def test_a_file_that_became_unusable_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "token"
    path.write_text("one")
    credentials = CredentialFiles(str(path), "", "")
    path.unlink()
    assert not credentials.read_again()
    assert credentials.metadata == (("authorization", "Bearer one"),)
    assert "going on with what was read before" in caplog.text
    path.write_text("two")
    assert credentials.read_again()
    assert credentials.metadata == (("authorization", "Bearer two"),)
