"""Trials that come from a storage: what a batch of them has in common is made once."""

import copy
import functools
import pickle
from collections.abc import Iterable, Sequence
from typing import Any, Final

from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from trialfleet.client.conversion import (
    Definition,
    decode_attributes,
    decode_definitions,
    decode_time,
)
from trialfleet.wire.v1 import trialfleet_pb2 as pb

_MAX_LAYOUTS: Final = 1000

# The protocol gives Optuna's states Optuna's own names.
_STATES: Final = {pb.State.Value(state.name): state for state in TrialState}


class _Layout:
    """What trials with the same parameters have in common."""

    def __init__(self, used: Iterable[Definition]) -> None:
        self.distributions = {definition.name: definition.distribution for definition in used}
        # Those whose values are not the numbers that stand for them.
        self._changed = tuple(
            name
            for name, distribution in self.distributions.items()
            if not isinstance(distribution, FloatDistribution)
        )

    @functools.cached_property
    def _pickled(self) -> bytes:
        return pickle.dumps(self.distributions)

    def copied(self) -> dict[str, BaseDistribution]:
        """Return a deep copy of the distributions, in a third of the time that one takes."""
        copied: dict[str, BaseDistribution] = pickle.loads(self._pickled)
        return copied

    def params(
        self, values: Sequence[float], distributions: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of a trial from the numbers that stand for their values.

        Choices are those of ``distributions``, which are the layout's or a copy of them.
        """
        params: dict[str, Any] = dict(zip(distributions, values, strict=True))
        for name in self._changed:
            params[name] = distributions[name].to_external_repr(params[name])
        return params


class DecodedDefinitions:
    """The definitions that trials point into. Belongs to one thread at a time."""

    def __init__(self) -> None:
        self.known: list[Definition] = []
        self._layouts: dict[tuple[int, ...], _Layout] = {}

    def add(self, first: int, definitions: Iterable[pb.Definition]) -> list[Definition]:
        """Add those of a batch, the first of which has a given index; return them."""
        added = decode_definitions(definitions)
        self.known[first : first + len(added)] = added
        return added

    def layout(self, indices: Sequence[int]) -> _Layout:
        """Return that of trials whose parameters have the definitions with given indices."""
        key = tuple(indices)
        found = self._layouts.get(key)
        if found is None:
            found = _Layout(self.known[index] for index in key)
            if len(self._layouts) < _MAX_LAYOUTS:
                self._layouts[key] = found
        return found


class FinishedTrial(FrozenTrial):
    """A finished trial of a history: states, values and parameters, which samplers want of all.

    Its times, attributes and reports are decoded when one of them is looked at: else they would
    take half of the time in which a history is read. Not to be modified: it shares its
    ``distributions`` with other trials. Copies are plain ones of Optuna's.
    """

    def __init__(self, encoded: bytes, definitions: DecodedDefinitions) -> None:
        message = pb.Trial.FromString(encoded)
        # By slices: they are lists, which are read in a third of the time.
        layout = definitions.layout(message.definitions[:])
        self._encoded = encoded
        self._layout = layout
        # As Optuna's own class calls them. What it calls another way is not found, and decoded
        # with the rest.
        self._number = message.number
        self.state = _STATES[message.state]
        self._values = message.values[:] or None
        self._params = layout.params(message.params[:], layout.distributions)
        self._distributions = layout.distributions
        self._trial_id = message.trial_id

    def plain(self) -> FrozenTrial:
        """Return the trial with all that it has. It shares its ``distributions`` with this one."""
        layout = self._layout
        return _decode(pb.Trial.FromString(self._encoded), layout, layout.distributions)

    def __getattr__(self, name: str) -> Any:
        # What is there is not asked for here. Of two threads, the second changes nothing.
        for attribute, value in vars(self.plain()).items():
            vars(self).setdefault(attribute, value)
        return self.__getattribute__(name)

    def __eq__(self, other: Any) -> bool:
        if other is self:  # whatever is in it that does not equal itself
            return True
        return self.plain() == (other.plain() if isinstance(other, FinishedTrial) else other)

    def __hash__(self) -> int:
        return hash(self.plain())

    def __repr__(self) -> str:
        return repr(self.plain())

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTrial:
        distributions = self._layout.copied()
        return _decode(pb.Trial.FromString(self._encoded), self._layout, distributions)

    def __reduce__(self) -> Any:
        return copy.copy, (self.plain(),)


def decode_finished(batch: pb.TrialBatch, definitions: DecodedDefinitions) -> list[FrozenTrial]:
    """Return the trials of a batch of a history, whose definitions are known."""
    return [FinishedTrial(encoded, definitions) for encoded in batch.trials]


def decode_batch(batch: pb.TrialBatch) -> list[FrozenTrial]:
    """Return the trials of a self-contained batch, which may be modified."""
    definitions = DecodedDefinitions()
    definitions.add(0, batch.definitions)
    trials = []
    for encoded in batch.trials:
        message = pb.Trial.FromString(encoded)
        layout = definitions.layout(message.definitions[:])
        trials.append(_decode(message, layout, layout.distributions.copy()))
    return trials


def deep_copies(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return copies that share nothing, not even among themselves."""
    return [copy.deepcopy(trial) for trial in trials]


def _decode(
    message: pb.Trial, layout: _Layout, distributions: dict[str, BaseDistribution]
) -> FrozenTrial:
    started_us, completed_us = message.started_us, message.completed_us
    user_attrs, system_attrs, steps = message.user_attrs, message.system_attrs, message.steps
    return FrozenTrial(
        number=message.number,
        state=_STATES[message.state],
        value=None,
        values=message.values[:] or None,
        datetime_start=(
            decode_time(started_us) if started_us or message.HasField("started_us") else None
        ),
        datetime_complete=(
            decode_time(completed_us) if completed_us or message.HasField("completed_us") else None
        ),
        params=layout.params(message.params[:], distributions),
        distributions=distributions,
        # Most have none, and to ask costs less than to decode none.
        user_attrs=decode_attributes(user_attrs) if user_attrs else {},
        system_attrs=decode_attributes(system_attrs) if system_attrs else {},
        intermediate_values=(
            dict(zip(steps[:], message.intermediate_values[:], strict=True)) if steps else {}
        ),
        trial_id=message.trial_id,
    )
