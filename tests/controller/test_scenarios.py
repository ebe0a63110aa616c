"""What befalls a study, with the real operator process and real workers, against the stand-in."""

import pytest

from tests.scenarios.backups import *  # noqa: F403
from tests.scenarios.databases import *  # noqa: F403
from tests.scenarios.hangs import *  # noqa: F403
from tests.scenarios.idle import *  # noqa: F403
from tests.scenarios.losses import *  # noqa: F403
from tests.scenarios.strangers import *  # noqa: F403
from tests.scenarios.stuck import *  # noqa: F403

pytestmark = pytest.mark.scenario
