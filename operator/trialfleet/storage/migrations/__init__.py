"""The numbered steps from one version of the ``trialfleet_`` tables to the next.

A step is a file ``NNNN_what_it_does.sql``, applied in one transaction; its number is the version
that it leads to. A step that was released is never changed: its checksum is in the database and in
a test. The first step is what version 6 was, the version of release 0.1.0.

Two releases write to one database while proxies are replaced, so a step only adds (expand). What
the release before still uses is dropped by a step of the release after (contract).
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

_FILE: Final = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step."""

    version: int
    """Of the tables, once the step was applied."""
    name: str
    script: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the script, in hexadecimal digits."""
        return hashlib.sha256(self.script.encode()).hexdigest()


@cache
def migrations() -> tuple[Migration, ...]:
    """Return all steps, in the order in which they are applied."""
    found = []
    for file in resources.files(__package__).iterdir():
        match = _FILE.fullmatch(file.name)
        if match:
            found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    return tuple(sorted(found, key=lambda step: step.version))
