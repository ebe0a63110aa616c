"""URLs of databases, as users write them."""

from typing import Final

import sqlalchemy as sa

from trialfleet.model.errors import InvalidInput

ACCEPTED: Final = "a URL like postgresql+psycopg2://USER:PASSWORD@HOST:5432/DATABASE"


def parse(text: str, name: str = "storage") -> sa.URL:
    """Return the URL of a PostgreSQL database, with the driver that we bring.

    Args:
        text: As it was given.
        name: What the text was given for, as an error begins.

    Raises:
        InvalidInput: It is none. The message has nothing of it that may be a password.
    """
    try:
        text.encode()
        url = sa.make_url(text)
    except UnicodeEncodeError:
        raise InvalidInput(f"{name}: found bytes that are no UTF-8, accepted: {ACCEPTED}") from None
    except sa.exc.ArgumentError:
        raise InvalidInput(f"{name}: found a text that is no URL, accepted: {ACCEPTED}") from None
    except ValueError:
        raise InvalidInput(
            f"{name}: found a port that is no number, accepted: {ACCEPTED}; a character of a "
            "password such as @ or / is written as %40 or %2F"
        ) from None
    if url.get_backend_name() != "postgresql":
        raise InvalidInput(
            f"{name}: found a {url.get_backend_name()} database, accepted: {ACCEPTED}"
        )
    # SQLAlchemy takes a plain postgresql:// for another driver than the one that we bring.
    return url.set(drivername="postgresql+psycopg2")
