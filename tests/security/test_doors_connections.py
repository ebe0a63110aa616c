"""Connections that are opened for harm."""

import contextlib
import threading
import time

from tests.security.doors import Doors, Worker

_SECONDS = 3.0


def test_many_handshakes_at_once(doors: Doors) -> None:
    ends_at = time.monotonic() + _SECONDS
    shaken: list[int] = []

    def shake() -> None:
        while time.monotonic() < ends_at:
            with contextlib.suppress(OSError):
                doors.encrypt().close()
                shaken.append(1)

    began_s = doors.cpu_s
    with Worker(doors) as worker:
        threads = [threading.Thread(target=shake) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert doors.process.popen.poll() is None
    assert len(shaken) > 50
    assert not worker.failures
    assert doors.memory < 200
    # 0.5 ms each; its caller takes more.
    spent_s = doors.cpu_s - began_s
    assert spent_s < 0.005 * (len(shaken) + len(worker.seconds))
