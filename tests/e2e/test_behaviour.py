"""What the stand-in is held to, of a real API server."""

from tests.scenarios.behaviour import *  # noqa: F403
