"""A study's life, with the real operator process and real workers, against the stand-in."""

from tests.scenarios.anew import *  # noqa: F403
from tests.scenarios.lifecycle import *  # noqa: F403
