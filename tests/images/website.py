"""An HTTP server on loopback that behaves as badly as a test wants."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from paddock.base import certificates

Behaviour = Callable[["Answer"], None]


class Answer(BaseHTTPRequestHandler):
    """One request, to be answered by what the test said for its path."""

    protocol_version = "HTTP/1.1"
    server: "Website"

    def do_GET(self) -> None:
        """Behave."""
        path = self.path.split("?")[0]
        self.server.asked.append((path, {k.lower(): v for k, v in self.headers.items()}))
        self.server.behaviours[path](self)

    def begin(self, status: int, **headers: Any) -> None:
        """Send the head; names of headers with _ for -."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def cut(self) -> None:
        """Close the connection."""
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Website(ThreadingHTTPServer):
    """Serves `behaviours` by path and remembers what it was `asked`: paths and headers in lower case."""

    daemon_threads = True

    def __init__(self, tls: certificates.Pair | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self._scheme = "https" if tls else "http"
        if tls:
            self.socket = tls.context().wrap_socket(self.socket, server_side=True)
        self.behaviours: dict[str, Behaviour] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> "Website":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """A client that went away is what these tests are about."""

    def url(self, path: str) -> str:
        return f"{self._scheme}://127.0.0.1:{self.server_port}{path}"

    def serves(self, path: str, data: bytes, **headers: Any) -> str:
        """Have it serve this, as good servers do: in parts too. Returns the URL."""

        def good(answer: Answer) -> None:
            wanted = answer.headers.get("Range", "")
            if wanted and answer.headers.get("If-Range") == headers.get("ETag"):
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(data):
                    return answer.begin(416, Content_Length=0)
                span = f"bytes {start}-{len(data) - 1}/{len(data)}"
                answer.begin(206, Content_Length=len(data) - start, Content_Range=span, **headers)
                answer.wfile.write(data[start:])
                return None
            answer.begin(200, Content_Length=len(data), **headers)
            answer.wfile.write(data)
            return None

        self.behaviours[path] = good
        return self.url(path)
