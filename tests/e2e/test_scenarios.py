"""The scenarios of the stand-in, on a real cluster, under Pod Security ``restricted``."""

from tests.scenarios.anew import *  # noqa: F403
from tests.scenarios.backups import *  # noqa: F403
from tests.scenarios.databases import *  # noqa: F403
from tests.scenarios.hangs import *  # noqa: F403
from tests.scenarios.idle import *  # noqa: F403
from tests.scenarios.lifecycle import *  # noqa: F403
from tests.scenarios.losses import *  # noqa: F403
from tests.scenarios.strangers import *  # noqa: F403
from tests.scenarios.stuck import *  # noqa: F403
