"""A small VNC viewer for tests, over a WebSocket: the client's side of RFC 6143, as noVNC speaks it."""

from websockets.sync.client import ClientConnection

from paddock.base.rfb import response

VERSION = b"RFB 003.008\n"


class Viewer:
    """Reads what it is sent in the sizes that the protocol says."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.rest = socket, b""

    def read(self, size: int) -> bytes:
        while len(self.rest) < size:
            said = self.socket.recv(timeout=10)
            assert isinstance(said, bytes)
            self.rest += said
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    def log_in(self, password: str) -> str:
        """Empty when it was let in, else the reason why not."""
        assert self.read(12) == VERSION
        self.socket.send(VERSION)
        assert self.read(2) == b"\x01\x02", "VNC authentication, and nothing else"
        self.socket.send(b"\x02")
        self.socket.send(response(password, self.read(16)))
        if self.read(4) == bytes(4):
            return ""
        return self.read(int.from_bytes(self.read(4))).decode()

    def size(self) -> tuple[int, int, str]:
        """Say that others may watch too; width and height of the screen, and its name."""
        self.socket.send(b"\x01")
        width, height = int.from_bytes(self.read(2)), int.from_bytes(self.read(2))
        self.read(16)
        return width, height, self.read(int.from_bytes(self.read(4))).decode()

    def picture(self, width: int, height: int) -> bytes:
        """The whole screen as raw pixels of 4 bytes."""
        self.socket.send(b"\x02\x00" + (1).to_bytes(2) + (0).to_bytes(4))
        self.socket.send(b"\x03\x00" + bytes(4) + width.to_bytes(2) + height.to_bytes(2))
        assert self.read(1) == b"\0"
        self.read(1)
        pixels = b""
        for _ in range(int.from_bytes(self.read(2))):
            _, _, w, h = (int.from_bytes(self.read(2)) for _ in range(4))
            assert self.read(4) == bytes(4), "raw"
            pixels += self.read(w * h * 4)
        return pixels
