"""The soak against the stand-in, whose API server fails too."""

from tests.scenarios.soaking import *  # noqa: F403
