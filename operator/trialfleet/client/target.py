"""Where streams lead, and how a connection to there is made."""

import socket
import ssl
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A proxy, as its connections know it."""

    host: str
    port: int
    authority: str
    """What it is called in requests."""
    authorities: bytes | None
    """The certificates to trust, in PEM; None: connections are not encrypted."""
    name: str
    """To expect in the proxy's certificate."""

    def connect(self, deadline_s: float) -> socket.socket:
        """Return a connection. Raises ``OSError``, ``ssl.SSLError`` among them."""
        connected = socket.create_connection((self.host, self.port), deadline_s)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.authorities is None:
                return connected
            tls = _trusting(self.authorities)
            return tls.wrap_socket(connected, server_hostname=self.name)
        except BaseException:
            connected.close()
            raise


def _trusting(authorities: bytes) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # As gRPC does: what is trusted need not be the last of a chain.
    tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    tls.set_alpn_protocols(["h2"])
    tls.load_verify_locations(cadata=authorities.decode("ascii", errors="ignore"))
    return tls
