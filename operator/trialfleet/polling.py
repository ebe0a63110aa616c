"""Who waits for the sockets of gRPC: the thread that makes a call, as the data path needs it.

gRPC has two ways. By its newer one, threads of its own wait for all sockets and wake those that
call, which costs a call twice the CPU: see docs/scaling.md. A process chooses when it loads gRPC.
"""

import os
import sys
from importlib.metadata import version
from typing import Final

TESTED: Final = ("1.85.",)
"""Versions of gRPC that know the names below: others would complain in every process."""

_VARIABLE: Final = "GRPC_EXPERIMENTS"
_CALLERS: Final = "-event_engine_client,-event_engine_listener"


def let_callers_poll() -> None:
    """Load gRPC so, unless it is loaded already or the environment says something else.

    The environment is left as it was: child processes may have another gRPC.
    """
    if "grpc" in sys.modules or _VARIABLE in os.environ:
        return
    if not version("grpcio").startswith(TESTED):
        return
    os.environ[_VARIABLE] = _CALLERS
    try:
        import grpc  # noqa: F401
    finally:
        del os.environ[_VARIABLE]
