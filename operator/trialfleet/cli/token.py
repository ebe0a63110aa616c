"""``trialfleet token``."""

from pathlib import Path
from typing import Annotated

import typer

from trialfleet.model.errors import InvalidInput
from trialfleet.wire import tokens


def token(
    key: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="The file that proxies have as --token-key; its first key is used."
        ),
    ],
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="The study that the token opens.")
    ] = None,
    uid: Annotated[
        str,
        typer.Option(
            metavar="UID",
            help="Of the Study object, for a study that a cluster's operator has made: "
            "kubectl get study NAME -o jsonpath={.metadata.uid}.",
        ),
    ] = "",
    admin: Annotated[bool, typer.Option("--admin", help="Make a token for everything.")] = False,
) -> None:
    """Print the token that opens one study, or with --admin everything, at proxies with the key."""
    if (study is None) != admin:
        raise InvalidInput("STUDY, --admin: accepted: one of the two")
    if uid and admin:
        raise InvalidInput("--uid: found beside --admin, accepted: with a STUDY")
    if not (uid.isascii() and uid.isprintable()):
        raise InvalidInput("--uid: found characters that are in no uid, accepted: a Study's")
    if study is not None and not _is_unicode(study):
        raise InvalidInput("STUDY: found bytes that are no UTF-8, accepted: a study's name")
    try:
        keys = tokens.read_keys(key.read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text"
        raise InvalidInput(f"key: {key}: {reason}") from error
    except InvalidInput as error:
        raise InvalidInput(f"key: {key}: {error}") from error
    print(tokens.for_admin(keys[0]) if study is None else tokens.for_study(keys[0], study, uid))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
