"""The stand-in behaves as a real API server does; the real one is asked in ``tests/e2e``."""

from tests.scenarios.behaviour import *  # noqa: F403
