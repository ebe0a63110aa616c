"""The soak on a real cluster: ``pytest tests/e2e --cluster -m soak --minutes 30``."""

from tests.scenarios.soaking import *  # noqa: F403
