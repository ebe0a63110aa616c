"""Times as Kubernetes writes them."""

import datetime


def timestamp(moment: datetime.datetime) -> str:
    """Return a time as Kubernetes writes it, in UTC, to the second."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str | None) -> datetime.datetime | None:
    """Return the time that Kubernetes wrote, with or without fractions of a second."""
    return None if not text else datetime.datetime.fromisoformat(text)
