"""The server's end of an HTTP/2 connection, frame by frame."""

import socket
import struct

import hpack

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    *(0, 1, 3, 4),
    *(6, 7, 8, 9),
)
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20

Frame = tuple[int, int, int, bytes]


def frame(kind: int, flags: int = 0, stream: int = 1, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBL", kind, flags, stream) + payload


def settings(**values: int) -> bytes:
    numbers = {"initial_window_size": 4, "max_frame_size": 5}
    return b"".join(struct.pack(">HL", numbers[name], value) for name, value in values.items())


def number(value: int) -> bytes:
    return struct.pack(">L", value)


class Peer:
    """The server's end of a connection."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._file = connected.makefile("rb")
        self._encoder = hpack.Encoder()

    def preface(self) -> bytes:
        return self._file.read(24)

    def read(self) -> Frame:
        head = self._file.read(9)
        kind, flags, stream = struct.unpack(">BBL", head[3:])
        return kind, flags, stream, self._file.read(int.from_bytes(head[:3], "big"))

    def skip(self, kind: int) -> Frame:
        """Return the next frame of a kind."""
        while (found := self.read())[0] != kind:
            pass
        return found

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def headers(self, *pairs: tuple[str, str]) -> bytes:
        return self._encoder.encode(pairs)

    def close(self) -> None:
        self._file.close()
        self.socket.close()
