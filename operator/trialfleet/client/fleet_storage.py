"""An Optuna storage that speaks to a proxy."""

import atexit
import os
import uuid
import weakref
from collections.abc import Container, Sequence
from typing import Any, Final

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import BaseStorage
from optuna.storages._base import DEFAULT_STUDY_NAME_PREFIX
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from trialfleet import names
from trialfleet.client import forking
from trialfleet.client.answers import GivenUp, StudyDefinition, Summary
from trialfleet.client.conversion import (
    check_name,
    encode_attribute,
    encode_attributes,
    encode_new_trial,
    floats,
)
from trialfleet.client.core import Core
from trialfleet.client.translation import optuna_errors
from trialfleet.client.trial_batches import decode_batch, deep_copies
from trialfleet.model.errors import (
    DefinitionDiffers,
    InvalidInput,
    NotFound,
    StorageUnavailable,
    TrialFinished,
)
from trialfleet.wire import methods
from trialfleet.wire.background import run
from trialfleet.wire.credentials import from_environment
from trialfleet.wire.v1 import trialfleet_pb2 as pb

# What columns of Optuna's tables hold.
_STEPS: Final = 2**31
_NUMBERS: Final = 2**31

_FINISHED: Final = frozenset(state for state in TrialState if state.is_finished())


class FleetStorage(BaseStorage):
    """Trials in a Trialfleet storage, reached through any of its proxies.

    All of Optuna's samplers, pruners and tools work over it. It differs from Optuna's own
    storages in what a worker's trial costs: Ask and Tell. What such a trial gains between the
    two is answered here, sent within a second, and is in the database for certain when the
    trial is told. What others write to it is read within a second by :meth:`get_trial`.

    **Thread safety.** Every method may be called by any number of threads at once, as
    ``study.optimize(n_jobs=4)`` does. Trials that are returned without a copy
    (``deepcopy=False``, :meth:`news`) are shared: they must not be modified, and later writes
    don't change them.

    **Processes.** A copy made by pickling connects anew and has a session of its own: trials go on
    in the process that asked for them. In a forked process this object lets the process that was
    forked make its calls, see :mod:`trialfleet.client.forking`; one that is made there raises
    ``ForkedProcess``.

    **Security.** A pickled copy carries the paths of the files, not what they hold. A token that no
    proxy knows raises ``Unauthenticated`` after seconds, one of another
    study :class:`~trialfleet.model.errors.PermissionDenied` at once.

    **Failures.** A call is tried at each proxy in turn, with pauses, for ``patience_s`` seconds,
    and then raises ``StorageUnavailable``; every write is applied once
    however often it was sent. When the session was given up meanwhile, the next ``set_trial_*``
    of its trials raises ``SessionGivenUp``, ``set_trial_state_values``
    returns False, and the next trial begins a new session.

    **Who owns a trial.** One that :meth:`ask` opened is this object's: it is handed back when the
    object is closed or collected, and lost when the object is silent for too long. One that Optuna
    made (``Study.ask``, ``Study.optimize``) runs until somebody tells it, here or elsewhere, as
    over Optuna's own storages: each ``set_trial_*`` is a call, and raises
    ``UpdateFinishedTrialError`` once another client has ended the trial.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        study: str = "",
        worker: str = "",
        time_to_live_s: float = names.SESSION_TIME_TO_LIVE_S,
        definition: str = "",
        patience_s: float = 600.0,
        token_file: str | os.PathLike[str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        server_name: str = "",
    ) -> None:
        """Name the proxies; connects at the first call.

        Args:
            endpoints: ``host:port`` of each proxy, or several in one string with commas between;
                the nearest first.
            study: Name of the study that the session belongs to; needed for :attr:`ordinal`.
            worker: Name under which the session can be given up; this host and process if empty.
            time_to_live_s: Seconds after which a session that is silent is given up. It is kept
                alive in the background, also while an objective runs.
            definition: The study's, if the session is for no other one of that name: to open it
                raises ``NotFound`` as long as the study has another.
            patience_s: Seconds for which a call is tried.
            token_file: File with the token to show to proxies; by default the one that
                ``TRIALFLEET_TOKEN_FILE`` names; empty for none. It is read again when a proxy
                does not know the token.
            ca_file: File with the certificates of the only authorities to trust, in PEM: calls
                are encrypted. By default the one that ``TRIALFLEET_CA_FILE`` names; empty for
                none. It is read again when no connection can be made.
            server_name: Name to expect in the proxies' certificates; the endpoint's host if empty.

        Raises:
            InvalidInput: An endpoint is not ``host:port``, a time is out of range, or a file
                can't be used.
        """
        listed = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
        if not listed:
            raise InvalidInput("endpoints: found none, accepted: HOST:PORT[,HOST:PORT...]")
        if not time_to_live_s > 0:
            raise InvalidInput(f"time_to_live_s: found {time_to_live_s}, accepted: more than 0")
        if not patience_s >= 0:
            raise InvalidInput(f"patience_s: found {patience_s}, accepted: 0 or more")
        self._settings: dict[str, Any] = {
            "addresses": [address.strip() for address in listed],
            "study": study,
            "worker": worker,
            "time_to_live_s": time_to_live_s,
            "definition": definition,
            "patience_s": patience_s,
            "token_file": from_environment(token_file, names.ENV_TOKEN_FILE),
            "ca_file": from_environment(ca_file, names.ENV_CA_FILE),
            "server_name": server_name,
        }
        self._begin()

    def _begin(self) -> None:
        self._key = uuid.uuid4().hex
        self._core = Core(**self._settings)
        self._finalizer = weakref.finalize(self, self._core.abandon)
        self._finalizer.atexit = False
        _storages.add(self)

    def _begin_in_child(self, parent: forking.Parent | None) -> None:
        # The parent's channels and threads are not here; what is left of them is not to be used,
        # not even to be destroyed.
        _left_behind.append(self._core)
        self._finalizer.detach()
        self._settings = self.__getstate__()
        if parent is None:
            self._begin()
        else:
            self._parent = parent
            self.__class__ = _Forked

    def __getstate__(self) -> dict[str, Any]:
        # A copy is not the worker: the end of its session says nothing of the worker's.
        return {**self._settings, "worker": ""}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._settings = state
        self._begin()

    # -- beyond Optuna's interface: these raise trialfleet.model.errors ---------------------------

    @property
    def study_id(self) -> int | None:
        """Id of the study that the session belongs to; None before the session is open."""
        session = self._core.sessions.opened
        return None if session is None else session.study_id

    @property
    def ordinal(self) -> int:
        """How many sessions the study had before this one; opens the session if needed."""
        return self._core.sessions.current().ordinal

    def close(self) -> None:
        """Send what is unsent, hand back what still runs, end the session, the thread and channels.

        Takes a few seconds at most, also while no proxy answers. Idempotent; other calls raise
        :class:`~trialfleet.model.errors.StorageUnavailable` from then on.
        """
        self._core.close()

    def ensure_study(self, definition: StudyDefinition) -> tuple[int, bool]:
        """Create a study or bring its budget up to date; return its id, and if it is new.

        Raises:
            DefinitionDiffers: The study has trials of another definition, and none is adopted.
            InvalidInput: The study exists with other directions, or the definition is wrong.
        """
        ensured = run(self._core.studies.ensure(definition))
        if ensured.differs:
            raise DefinitionDiffers(ensured.differs)
        return ensured.study_id, ensured.created

    def stop_study(self, study_id: int) -> None:
        """Have no new trial of a study opened any more, until its budget is changed.

        Raises ``NotFound``.
        """
        run(self._core.studies.stop(study_id))

    def summary(self, study_id: int, best: int = 1) -> Summary:
        """Return counts and up to ``best`` best trials, in constant time. Raises ``NotFound``."""
        return run(self._core.studies.summary(study_id, best))

    def give_up(
        self, *, worker: str, reason: str, message: str = "", failed: bool = False
    ) -> GivenUp:
        """Say that a worker is dead: see :meth:`trialfleet.client.study_calls.Studies.give_up`."""
        given_up = self._core.studies.give_up(
            worker=worker, reason=reason, message=message, failed=failed
        )
        return run(given_up)

    def news(self, study_id: int) -> list[FrozenTrial]:
        """Return the finished trials that this object did not return before, in the order seen.

        Raises ``NotFound``.
        """
        history = self._core.histories.of(study_id)
        self._core.running.read_news(study_id, history, None, finished_only=True)
        return history.news()

    @optuna_errors
    def finished_trials(self, study_id: int, late_s: float) -> list[FrozenTrial]:
        """Return the trials that have finished, ordered by number; they must not be modified.

        Those that finished in the last ``late_s`` seconds may be missing: who asks often, as a
        pruner does, is answered without a call in between. Raises ``KeyError``.
        """
        return self._core.running.all_trials(study_id, _FINISHED, late_s)

    def ask(self, study_id: int, wait_s: float = 5.0) -> int | None:
        """Open the next trial, a waiting one first; return its id.

        Returns None if there is nothing to run now, after ``wait_s`` seconds; ask again.

        Raises:
            StudyEnded: The budget allows no further trial, with its ``reason``.
            NotFound: The study does not exist.
        """
        return self._core.running.ask(study_id, wait_s)

    def tell_and_ask(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> tuple[bool, int | None]:
        """End a trial that runs here, and open the next one of its study in the same call.

        Returns what :meth:`set_trial_state_values` does, and the next trial's id; None: ask for it.
        """
        trial = self._core.running.get(trial_id)
        if trial is None:
            return self.set_trial_state_values(trial_id, state, values), None
        return optuna_errors(self._core.running.tell_and_ask)(trial, state, floats(values))

    @optuna_errors
    def should_prune(self, trial_id: int, pruner: str) -> bool:
        """Report a trial that runs here, and return whether it is to be pruned.

        A proxy decides, see :func:`trialfleet.wire.pruners.encode_pruner`, from finished trials
        that may be half a second late. Raises ``KeyError`` if the trial does not run here.
        """
        trial = self._core.running.get(trial_id)
        if trial is None:
            raise NotFound(f"trial {trial_id} does not run here")
        return self._core.running.should_prune(trial, pruner)

    @optuna_errors
    def running_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial that runs here as :meth:`get_trial` does, without a call.

        What others wrote to it may be missing. Raises ``KeyError``.
        """
        return self._core.running.known(trial_id) or self.get_trial(trial_id)

    def hand_back(self, trial_id: int) -> None:
        """Let a trial that runs here wait again at once, for another worker, with its parameters.

        Raises ``NotFound`` if the trial does not run here.
        """
        trial = self._core.running.get(trial_id)
        if trial is None:
            raise NotFound(f"trial {trial_id} does not run here")
        self._core.running.tell(trial, TrialState.WAITING, None)

    # -- studies; see optuna.storages.BaseStorage ------------------------------------------------

    @optuna_errors
    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """See :class:`optuna.storages.BaseStorage`."""
        name = DEFAULT_STUDY_NAME_PREFIX + str(uuid.uuid4()) if study_name is None else study_name
        check_name(name, "study")
        return self._core.sessions.write(
            methods.CREATE_STUDY,
            lambda write: pb.CreateStudyRequest(
                write=write, name=name, directions=[direction.name for direction in directions]
            ),
        ).study_id

    @optuna_errors
    def delete_study(self, study_id: int) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._core.sessions.write(
            methods.DELETE_STUDY,
            lambda write: pb.DeleteStudyRequest(write=write, study_id=study_id),
        )
        self._core.histories.drop(study_id)
        self._core.running.drop_study(study_id)

    @optuna_errors
    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._set_study_attr(study_id, key, value, system=False)

    @optuna_errors
    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._set_study_attr(study_id, key, value, system=True)

    @optuna_errors
    def get_study_id_from_name(self, study_name: str) -> int:
        """See :class:`optuna.storages.BaseStorage`."""
        session = self._core.sessions.of_study(study_name)
        if session is not None and session.study_id is not None:
            return session.study_id
        return run(self._core.studies.by_name(study_name))._study_id

    @optuna_errors
    def get_study_name_from_id(self, study_id: int) -> str:
        """See :class:`optuna.storages.BaseStorage`."""
        return run(self._core.studies.by_id(study_id)).study_name

    @optuna_errors
    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """See :class:`optuna.storages.BaseStorage`."""
        session = self._core.sessions.opened
        if session is not None and session.study_id == study_id and session.directions:
            return session.directions.copy()
        return run(self._core.studies.by_id(study_id)).directions

    @optuna_errors
    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        return run(self._core.studies.by_id(study_id)).user_attrs

    @optuna_errors
    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        return run(self._core.studies.by_id(study_id)).system_attrs

    @optuna_errors
    def get_all_studies(self) -> list[FrozenStudy]:
        """See :class:`optuna.storages.BaseStorage`."""
        return run(self._core.studies.all())

    # -- trials; see optuna.storages.BaseStorage -------------------------------------------------

    @optuna_errors
    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See :class:`optuna.storages.BaseStorage`.

        Raises also ``StudyEnded`` if the study has a budget that allows
        no further trial.
        """
        if template_trial is None:
            return self._core.create_trial(study_id)
        template = encode_new_trial(template_trial, self._core.connection.max_message_bytes)
        return self._core.sessions.write(
            methods.CREATE_TRIAL,
            lambda write: pb.CreateTrialRequest(write=write, study_id=study_id, template=template),
        ).trial_id

    @optuna_errors
    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        trial = self._core.running.get(trial_id)
        if trial is not None:
            self._core.running.set_param(trial, param_name, param_value_internal, distribution)
            return
        check_name(param_name, "parameter")
        param = pb.Param(
            name=param_name,
            value=param_value_internal,
            distribution_json=distribution_to_json(distribution),
        )
        self._write_trial(pb.TrialUpdate(trial_id=trial_id, params=[param]))

    @optuna_errors
    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        trial = self._core.running.get(trial_id)
        if trial is not None:
            self._core.running.set_attr(trial, key, value, system=False)
            return
        attributes = self._encode_attribute(f"trial {trial_id}: user", key, value)
        self._write_trial(pb.TrialUpdate(trial_id=trial_id, user_attrs=attributes))

    @optuna_errors
    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        trial = self._core.running.get(trial_id)
        if trial is not None:
            self._core.running.set_attr(trial, key, value, system=True)
            return
        attributes = self._encode_attribute(f"trial {trial_id}: system", key, value)
        self._write_trial(pb.TrialUpdate(trial_id=trial_id, system_attrs=attributes))

    @optuna_errors
    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        if not 0 <= step < _STEPS:
            raise InvalidInput(f"step: found {step}, accepted: 0 to {_STEPS - 1}")
        trial = self._core.running.get(trial_id)
        if trial is not None:
            trial.check()
            trial.set_value(int(step), float(intermediate_value))
            return
        self._write_trial(
            pb.TrialUpdate(
                trial_id=trial_id, steps=[step], intermediate_values=[intermediate_value]
            )
        )

    @optuna_errors
    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """See :class:`optuna.storages.BaseStorage`.

        Returns False also if the trial was taken away from this process: nothing is written. Of
        one that another client has ended raises ``UpdateFinishedTrialError``.
        """
        trial = self._core.running.get(trial_id)
        if trial is not None:
            if state == TrialState.RUNNING:
                return False
            return self._core.running.tell(trial, state, floats(values))
        return self._write_trial(pb.TrialUpdate(trial_id=trial_id), state, floats(values))

    @optuna_errors
    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._core.running.read(trial_id) or self._fetch(
            pb.GetTrialsRequest(trial_ids=[trial_id])
        )

    @optuna_errors
    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """See :class:`optuna.storages.BaseStorage`."""
        for trial in self._core.running.of(study_id):
            if trial.number == trial_number:
                return trial.trial_id
        if not 0 <= trial_number < _NUMBERS:
            raise NotFound(f"study {study_id} has no trial with the number {trial_number}")
        request = pb.GetTrialsRequest(study_id=study_id, numbers=[trial_number])
        return self._fetch(request)._trial_id

    @optuna_errors
    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """See :class:`optuna.storages.BaseStorage`.

        Fetches what changed; right after :meth:`ask` that came with the trial.
        """
        trials = self._core.running.all_trials(study_id, states)
        return deep_copies(trials) if deepcopy else trials

    def _encode_attribute(self, owner: str, key: str, value: Any) -> list[pb.Attribute]:
        limit = self._core.connection.max_message_bytes
        return encode_attributes({key: encode_attribute(owner, key, value, limit)})

    def _set_study_attr(self, study_id: int, key: str, value: Any, *, system: bool) -> None:
        (attribute,) = self._encode_attribute(
            f"study {study_id}: {'system' if system else 'user'}", key, value
        )
        self._core.sessions.write(
            methods.SET_STUDY_ATTRIBUTE,
            lambda write: pb.SetStudyAttributeRequest(
                write=write, study_id=study_id, system=system, attribute=attribute
            ),
        )

    def _fetch(self, request: pb.GetTrialsRequest) -> FrozenTrial:
        reply = run(self._core.connection.call(methods.GET_TRIALS, request))
        (trial,) = decode_batch(reply.trials)
        return trial

    def _write_trial(
        self,
        update: pb.TrialUpdate,
        state: TrialState | None = None,
        values: list[float] | None = None,
    ) -> bool:
        try:
            reply = self._core.sessions.write(
                methods.WRITE_TRIAL,
                lambda write: pb.WriteTrialRequest(
                    write=write,
                    update=update,
                    state=None if state is None else state.name,
                    values=values,
                ),
            )
        except (NotFound, TrialFinished):
            self._core.created.discard(update.trial_id)
            raise
        if state is not None and state.is_finished():
            self._core.created.discard(update.trial_id)
        return reply.updated


class _Forked(FleetStorage):
    """A storage object in a process that was forked: its parent's object is asked for all."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        if name == "close":
            return lambda: None
        return forking.forwarding(self._parent, self._key, getattr(FleetStorage, name), name)

    def __reduce__(self) -> Any:
        return _anew, (self._settings,)


def _anew(settings: dict[str, Any]) -> FleetStorage:
    storage = FleetStorage.__new__(FleetStorage)
    storage.__setstate__(settings)
    return storage


_storages: Final[weakref.WeakSet[FleetStorage]] = weakref.WeakSet()
_left_behind: Final[list[Core]] = []


def _answer(key: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Answer a forked child."""
    for storage in list(_storages):
        if storage._key == key:
            found = getattr(storage, name)
            return found(*args, **kwargs) if callable(found) else found
    raise StorageUnavailable("the storage was closed")


def _begin_in_child() -> None:
    parent = forking.after_in_child()
    for storage in list(_storages):
        storage._begin_in_child(parent)


def _close_all() -> None:
    for storage in list(_storages):
        storage.close()


os.register_at_fork(
    before=forking.before,
    after_in_parent=lambda: forking.after_in_parent(_answer),
    after_in_child=_begin_in_child,
)
atexit.register(_close_all)
