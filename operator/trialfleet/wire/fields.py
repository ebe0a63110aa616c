"""Protobuf's encoding of fields, for messages that are put together from encoded ones."""

from typing import Final

from google.protobuf.message import Message

_LENGTH_DELIMITED: Final = 2


def varint(value: int) -> bytes:
    """Encode a non-negative integer as protobuf does."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(message: type[Message], field: str) -> bytes:
    """Return what precedes the length of a message or bytes field on the wire."""
    return varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | _LENGTH_DELIMITED)


def encode_field(tag: bytes, encoded: bytes) -> bytes:
    """Return a field of a message that is encoded already."""
    return b"".join((tag, varint(len(encoded)), encoded))
