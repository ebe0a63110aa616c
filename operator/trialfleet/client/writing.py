"""What may be written: checked here, so that the call that is wrong is the one that fails."""

import json
from typing import Any, Final

from optuna.trial import FrozenTrial

from trialfleet.client.records import encode_template
from trialfleet.model.errors import InvalidInput, MessageTooLarge
from trialfleet.wire.v1 import trialfleet_pb2 as pb

ITEM_BYTES: Final = 32
"""What an item takes in a message beside its name and text, at most."""

_NAME_CHARACTERS: Final = 512
"""As many as the columns of Optuna's tables hold."""

_ENVELOPE_BYTES: Final = 64 * 1024
"""Room in a message for all that is not the one large item."""


def check_name(name: str, what: str) -> None:
    """Raise :class:`~trialfleet.model.errors.InvalidInput` for a name that no database takes."""
    if len(name) > _NAME_CHARACTERS:
        raise InvalidInput(
            f"{what} {name[:40]!r}...: found a name of {len(name)} characters, accepted: up to "
            f"{_NAME_CHARACTERS}"
        )
    if "\0" in name:
        raise InvalidInput(f"{what} {name!r}: found a NUL character in the name, accepted: none")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{what} {name!r}: found a name that can't be encoded ({error.reason}), accepted: text"
        ) from error


def encode_attribute(owner: str, key: str, value: Any, max_message_bytes: int) -> str:
    """Return an attribute's JSON text; ``owner`` says whose it is, for people.

    Raises ``TypeError`` for a value that is not JSON, ``InvalidInput``,
    and :class:`~trialfleet.model.errors.MessageTooLarge` for one that no message holds.
    """
    text = json.dumps(value)
    check_name(key, f"{owner} attribute")
    size, limit = attribute_bytes(key, text), room(max_message_bytes)
    if size > limit:
        raise MessageTooLarge(
            f"{owner} attribute {key!r}: found {size} bytes, accepted: up to {limit} bytes"
        )
    return text


def encode_new_trial(trial: FrozenTrial, max_message_bytes: int) -> pb.TrialBatch:
    """Return the template of a new trial. Raises as :func:`encode_attribute` does."""
    for name in trial.params:
        check_name(name, "parameter")
    for key in (*trial.user_attrs, *trial.system_attrs):
        check_name(key, "attribute")
    batch = encode_template(trial)
    limit = room(max_message_bytes)
    if batch.ByteSize() > limit:
        sizes = {
            f"{kind} attribute {key!r}": attribute_bytes(key, json.dumps(value))
            for kind, attributes in (("user", trial.user_attrs), ("system", trial.system_attrs))
            for key, value in attributes.items()
        }
        largest = max(sizes, key=sizes.__getitem__, default="")
        most = f", of which {largest} has {sizes[largest]}" if largest else ""
        raise MessageTooLarge(
            f"new trial: found {batch.ByteSize()} bytes{most}, accepted: up to {limit} bytes"
        )
    return batch


def attribute_bytes(key: str, text: str) -> int:
    """Return what an attribute takes in a message, at most."""
    # A key may need 4 bytes for each character; Optuna's JSON text is ASCII.
    return 4 * len(key) + len(text) + ITEM_BYTES


def room(max_message_bytes: int) -> int:
    """Return how many bytes of items a message holds."""
    return max_message_bytes - min(_ENVELOPE_BYTES, max_message_bytes // 4)
