"""A port of a pod, reached through the API server."""

import contextlib
import socket
import threading
from typing import Any, Final, Self

from kubernetes import client as api
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward

from trialfleet.cluster.namespace import Namespace
from trialfleet.model import errors

_CHUNK: Final = 256 * 1024


class Tunnel:
    """A pod's port as a port of this machine's loopback interface, while it is entered.

    Each connection to :attr:`address` is one WebSocket to the API server.
    """

    def __init__(self, namespace: Namespace, pod: str, port: int) -> None:
        """Name the port."""
        self._api = api.CoreV1Api(namespace.client)
        self._namespace, self._pod, self._port = namespace.name, pod, port
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.broken = ""
        """Why the last connection could not be made, or ended; empty if nothing was said."""

    def __enter__(self) -> Self:
        """Make the first connection, to know that it can be made.

        Raises:
            PermissionDenied: The user may not forward ports of pods.
            ClusterUnavailable: The API server or the node does not answer.
        """
        self._first: Any = self._dial()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, name="tunnel", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        # A blocked accept is not woken by close.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        if self._first is not None:
            self._first.close()
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _dial(self) -> Any:
        try:
            return portforward(
                self._api.connect_get_namespaced_pod_portforward,
                self._pod,
                self._namespace,
                ports=str(self._port),
            )
        except ApiException as error:
            said = " ".join(str(error.reason).split())
            what = f"port-forward to pod {self._pod!r} in namespace {self._namespace}"
            if "Handshake status 403" in said:
                raise errors.PermissionDenied(
                    f"{what}: forbidden; ask for the right to create pods/portforward there: "
                    "docs/terminal.md has a Role with all that this command needs"
                ) from error
            raise errors.ClusterUnavailable(f"{what}: {said[:200]}") from error

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            forward, self._first = self._first, None
            try:
                forward = forward or self._dial()
            except errors.TrialfleetError as error:
                self.broken = str(error)
                near.close()
                continue
            far = forward.socket(self._port)
            with self._lock:
                self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(
                    target=self._pump, args=(source, sink, forward), name="tunnel", daemon=True
                ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, forward: Any) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                sink.sendall(chunk)
        # What one end closed is closed at the other, which ends the other direction.
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        self.broken = forward.error(self._port) or self.broken
        with self._lock:
            self._open.discard(source)
        source.close()
