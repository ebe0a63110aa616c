"""Tokens: what a caller shows to a proxy to open one study, or everything.

A token is a message authentication code over the study's name and the uid of the Study object that
it is for, so that another one of that name is not opened. Who has the key makes the token of any
study, and checks one, without a list of them: a study that is added needs nothing of a proxy that
runs. Pure functions; the key is a text, and so is a token.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from typing import Final, NamedTuple

from trialfleet.model.errors import InvalidInput

KEY_CHARACTERS: Final = 32
"""A key has at least as many."""

_STUDY: Final = "tfs"
_OBJECT: Final = "tfo"
_ADMIN: Final = "tfa"


class Grant(NamedTuple):
    """What a token opens."""

    study: str | None
    """A study's name; None: everything."""
    uid: str = ""
    """Of the Study object whose the study has to be; empty: the token bears none."""


def for_study(key: str, study: str, uid: str = "") -> str:
    """Return the token that opens the study of a name, and nothing else.

    With the uid of a Study object it does so while the study is that one's. Releases up to 0.1.0
    know no such tokens.
    """
    if not uid:
        return f"{_STUDY}.{_encoded(study)}.{_code(key, _STUDY, study)}"
    if "\0" in uid:
        raise InvalidInput(f"uid: found {uid!r}, accepted: a text without NUL characters")
    code = _code(key, _OBJECT, f"{uid}\0{study}")
    return f"{_OBJECT}.{_encoded(study)}.{_encoded(uid)}.{code}"


def for_admin(key: str) -> str:
    """Return the token that opens everything."""
    return f"{_ADMIN}.{_code(key, _ADMIN, '')}"


def check(keys: Iterable[str], token: str) -> Grant | None:
    """Return what a token opens; None if it was made with none of the keys.

    What it takes does not tell how much of the token was right.
    """
    kind, _, rest = token.partition(".")
    if kind == _ADMIN:
        grant = Grant(None)
    elif kind in (_STUDY, _OBJECT):
        try:
            named = [_decoded(part) for part in rest.split(".")[:-1]]
        except (binascii.Error, ValueError):
            return None
        if len(named) != (1 if kind == _STUDY else 2) or "" in named[1:] or "\0" in "".join(named):
            return None
        grant = Grant(*named)
    else:
        return None
    shown, right = token.encode(), False
    for key in keys:
        opened, uid = grant
        made = for_admin(key) if opened is None else for_study(key, opened, uid)
        right |= hmac.compare_digest(made.encode(), shown)
    return grant if right else None


def metadata(token: str) -> tuple[str, str]:
    """Return what a call carries to show a token."""
    return "authorization", f"Bearer {token}"


def read_keys(text: str) -> list[str]:
    """Return the keys of a file, one a line.

    Raises ``InvalidInput`` if there is none, or one that is too short.
    """
    keys = [line.strip() for line in text.splitlines() if line.strip()]
    if not keys:
        raise InvalidInput("found no key, accepted: one a line")
    shortest = min(map(len, keys))
    if shortest < KEY_CHARACTERS:
        raise InvalidInput(
            f"found a key of {shortest} characters, accepted: at least {KEY_CHARACTERS}, random"
        )
    return keys


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def _decoded(text: str) -> str:
    return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True).decode()


def _code(key: str, kind: str, name: str) -> str:
    text = f"trialfleet\0{kind}\0{name}".encode()
    return base64.urlsafe_b64encode(hmac.digest(key.encode(), text, hashlib.sha256)).decode()[:-1]
