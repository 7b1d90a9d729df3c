"""A Debian mirror on loopback for the time of a test: what is asked of it is fetched by this host's own apt.

So an installer in a guest, which reaches loopback as 10.0.2.2, gets the archive's own signed lists and packages
wherever apt works here: by whatever mirror, proxy or certificates the host is set up with.
"""

import contextlib
import lzma
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from paddock.base.errors import CommandFailed
from paddock.base.run import run
from paddock.images.packages import Packages

SUITE = "bookworm"
_SERVED = re.compile(r"/debian/((?:dists|pool)/[A-Za-z0-9+._~:/-]+)")  # nothing else is fetched for a guest
_FETCH = 300.0  # seconds for one file; the largest has some 100 MB


def source(work: Path) -> str:
    """The address that this host gets that release of Debian from; empty when it has none."""
    lines = Packages(work).sources_of(SUITE)
    plain = re.compile(rf"deb (?:\[[^]]*\] )?(\S+) {SUITE} main")
    found = filter(None, map(plain.fullmatch, lines))
    return next((match[1].rstrip("/") for match in found), "")


@dataclass
class Mirror:
    """What is served. `fetched` is told path by path: what an installer asked for."""

    upstream: str
    place: Path
    port: int = 0
    fetched: list[str] = field(default_factory=list)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ensure(self, path: str) -> None:
        """Have the file below `debian/` here, if the archive has it. Only asked for once at a time."""
        with self._lock:
            lock = self._locks.setdefault(path, threading.Lock())
        target = self.place / "debian" / path
        with lock:
            if target.exists():
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(CommandFailed):  # the archive does not have it: a 404, as the archive says
                _fetch(f"{self.upstream}/{path}", target)
                self.fetched.append(path)

    def lacks(self, udebs: tuple[str, ...]) -> list[str]:
        """Those components of Debian's installer that the archive lists, or should list, and does not have."""
        index = f"dists/{SUITE}/main/debian-installer/binary-amd64/Packages.xz"
        self.ensure(index)
        text = lzma.decompress((self.place / "debian" / index).read_bytes()).decode()
        files = dict(re.findall(r"^Package: (\S+)$.*?^Filename: (\S+)$", text, re.MULTILINE | re.DOTALL))
        wanted = {name: files.get(name, "") for name in udebs}
        for path in filter(None, wanted.values()):
            self.ensure(path)
        return [name for name, path in wanted.items() if not path or not (self.place / "debian" / path).exists()]


def _fetch(address: str, target: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    options = ["-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=2"]
    run(["/usr/lib/apt/apt-helper", *options, "download-file", address, part], timeout=_FETCH)
    part.rename(target)


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, mirror: Mirror, *words: Any) -> None:
        self._mirror = mirror
        super().__init__(*words, directory=str(mirror.place))

    def send_head(self) -> Any:
        path = unquote(self.path)  # apt writes + and ~ as %2b and %7e
        match = _SERVED.fullmatch(path)
        if match is None or ".." in path.split("/"):
            return self.send_error(404)
        self._mirror.ensure(match[1])
        return super().send_head()

    def log_message(self, format: str, *args: Any) -> None:
        """What was fetched is noted; each request would drown a test's output."""


@contextlib.contextmanager
def serving(upstream: str, place: Path) -> Iterator[Mirror]:
    """The mirror at `http://127.0.0.1:PORT/debian`, for the time of the block."""
    mirror = Mirror(upstream, place)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, mirror)) as server:
        server.daemon_threads = True
        mirror.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield mirror
        finally:
            server.shutdown()
            thread.join()
