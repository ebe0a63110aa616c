"""A study on a cluster, as a script or a notebook holds it."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import optuna
import yaml
from optuna.trial import FrozenTrial
from tqdm.auto import tqdm

from trialfleet import names
from trialfleet.client import FleetStorage
from trialfleet.cluster import connect, pod_logs, steer
from trialfleet.cluster.namespace import STUDIES, Namespace, Object
from trialfleet.cluster.study_progress import condition, summarize
from trialfleet.model import errors

if TYPE_CHECKING:
    import pandas


class StudyHandle:
    """A study on a cluster: see it, steer it, wait for it.

    The study goes on without its handle. For one thread at a time. Every method raises
    ``ClusterUnavailable`` if the API server does not answer, ``PermissionDenied`` if the user may
    not do what it takes, and ``NotFound`` if the study was deleted; those that read trials raise
    ``StorageUnavailable`` if no proxy of its storage is ready.
    """

    def __init__(
        self, namespace: Namespace, name: str, manifest: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Take a namespace, which the handle closes, and the objects that the study was made of."""
        self.name = name
        self._namespace = namespace
        self._manifest = manifest
        self._stack = contextlib.ExitStack()
        self._storage: FleetStorage | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        status = self._find().get("status", {})
        told = [str(status.get("phase") or "not looked at yet")]
        if "progress" in status:
            told.append(f"{status['progress']} trials")
        return f"<Study {self.name} in {self._namespace}: {', '.join(told)}>"

    def close(self) -> None:
        """Close the connections; the study goes on."""
        self._disconnect()
        self._namespace.__exit__()

    @property
    def study(self) -> optuna.Study:
        """The study as Optuna has it: every read is one of the storage on the cluster."""
        if self._storage is not None:
            try:
                self._storage.get_study_id_from_name(self.name)
            except errors.StorageUnavailable:
                # The proxy's pod may have been replaced by another one.
                self._disconnect()
            except KeyError:
                raise errors.deleted(self.name) from None
        if self._storage is None:
            found = self._find()
            self._storage = self._stack.enter_context(connect.open_trials(self._namespace, found))
        try:
            return optuna.load_study(study_name=self.name, storage=self._storage)
        except KeyError:
            raise errors.StorageUnavailable(
                f"study {self.name!r}: its storage does not know it yet; what is in the way: "
                f"trialfleet why {self.name}"
            ) from None

    @property
    def best_trial(self) -> FrozenTrial:
        """As ``optuna.Study.best_trial``."""
        return self.study.best_trial

    @property
    def best_params(self) -> dict[str, Any]:
        """As ``optuna.Study.best_params``."""
        return self.study.best_params

    @property
    def best_value(self) -> float:
        """As ``optuna.Study.best_value``."""
        return self.study.best_value

    def trials_dataframe(self, **options: Any) -> "pandas.DataFrame":
        """As ``optuna.Study.trials_dataframe``, which needs pandas."""
        return self.study.trials_dataframe(**options)

    def wait(self, timeout: float | None = None, *, show_progress_bar: bool = True) -> Self:
        """Wait until the study has ended.

        Args:
            timeout: Seconds; None: as long as it takes.
            show_progress_bar: Whether to show one.

        Raises:
            TimeoutError: It has not ended in that time.
            TrialfleetError: It has failed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        bar: tqdm[Any] | None = None
        try:
            for study in self._namespace.watch(STUDIES, self.name, look_s=timeout):
                if study is None:
                    raise errors.deleted(self.name)
                if bar is None and show_progress_bar:
                    budget = study["spec"].get("budget", {}).get("trials")
                    bar = tqdm(total=budget, desc=self.name, unit="trial")
                if bar is not None:
                    _show(bar, study)
                if condition(study, "Complete"):
                    return self
                failed = condition(study, "Failed")
                if failed is not None:
                    raise errors.TrialfleetError(
                        f"study {self.name!r}: {failed['reason']}: {failed.get('message')}; what "
                        f"to do: trialfleet why {self.name} -n {self._namespace.name}"
                    )
                if deadline is not None and time.monotonic() >= deadline:
                    break
        finally:
            if bar is not None:
                bar.close()
        raise TimeoutError(f"study {self.name!r} has not ended in {timeout} s")

    def logs(self, trial: int | None = None) -> str:
        """Return what was printed while a trial ran; None: by all pods that are left.

        Raises:
            KeyError: There is no trial of that number.
            NotFound: The pod that ran it is gone, or none has begun it.
        """
        if trial is None:
            lines = pod_logs.read(self._namespace, self.name, None)
            return "".join(f"{line.pod} | {line.text}\n" for line in lines)
        study = self.study
        trial_id = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, trial)
        started = study._storage.get_trial(trial_id).datetime_start
        if started is not None:
            with pod_logs.open_trial(self._namespace, self.name, trial, started) as found:
                if found is not None:
                    return "".join(f"{line.text}\n" for line in found)
        raise errors.NotFound(f"study {self.name!r}: no pod that is left has run trial {trial}")

    def stop(self) -> None:
        """Have no new trial made; those that run or wait are finished."""
        study = self.study
        assert self._storage is not None
        self._storage.stop_study(study._study_id)

    def scale(self, parallelism: int) -> None:
        """Give the study so many workers."""
        self._find()
        steer.scale(self._namespace, self.name, parallelism)

    def to_manifest(self) -> str:
        """Return the study as YAML, for ``kubectl apply`` and ``trialfleet submit``."""
        objects = self._manifest
        if not objects:
            found = self._find()
            metadata = {"name": self.name, "namespace": self._namespace.name}
            objects = [
                {
                    "apiVersion": names.API_VERSION,
                    "kind": "Study",
                    "metadata": metadata,
                    "spec": found["spec"],
                }
            ]
        return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True)

    def _find(self) -> Object:
        found = self._namespace.find(STUDIES, self.name)
        if found is None:
            raise errors.deleted(self.name)
        return found

    def _disconnect(self) -> None:
        self._storage = None
        self._stack.close()


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such: source is to be read."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _show(bar: "tqdm[Any]", study: Mapping[str, Any]) -> None:
    summary = summarize(study)
    counts = summary.counts
    shown: dict[str, int | str] = {}
    if len(study["spec"]["objectives"]) == 1 and summary.best:
        shown["best"] = f"{summary.best[0].value:.6g}"
    for word in ("running", "pruned", "failed", "lost"):
        if getattr(counts, word):
            shown[word] = getattr(counts, word)
    bar.set_postfix(shown, refresh=False)
    bar.n = counts.counted
    bar.refresh()
