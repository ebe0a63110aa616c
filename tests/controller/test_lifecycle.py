"""A study's life, with the real operator process and real workers, against the stand-in."""

from tests.scenarios.lifecycle import *  # noqa: F403
