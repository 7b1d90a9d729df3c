"""A pseudo-terminal with a `paddock` on it, for what only happens where a person looks."""

import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.cli.conftest import Shell


class Terminal:
    """The person's end of it."""

    def __init__(self, master: int, slave: int, process: "subprocess.Popen[bytes]") -> None:
        self.master, self.slave, self.process = master, slave, process
        self.seen = ""

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def until(self, text: str, seconds: float = 20) -> str:
        """Everything shown since the last call, up to and with `text`."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} is not shown, but {self.seen!r}"
            if select.select([self.master], [], [], left)[0]:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
        shown, _, rest = self.seen.partition(text)
        self.seen = rest
        return shown + text

    def is_raw(self) -> bool:
        """Whether keys go through as they are."""
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO)

    def wait(self) -> int:
        """Its exit code."""
        deadline = time.monotonic() + 20
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end; it shows {self.seen!r}"
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
        return self.process.returncode


@contextmanager
def on_terminal(
    shell: Shell, *words: str, columns: int = 80, mute: bool = False, program: Sequence[str] = (), **env: str
) -> Iterator[Terminal]:
    """Run `paddock`, or another program, on a terminal, where `mute` leaves out stderr; it is killed at the end if it
    still runs."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    # It execs: not preexec_fn, which may hang beside threads.
    argv = ["setsid", "--ctty", *(program or shell.argv(*words))]
    errors = subprocess.DEVNULL if mute else slave
    process = subprocess.Popen(argv, env={**shell.env, **env}, stdin=slave, stdout=slave, stderr=errors)
    try:
        yield Terminal(master, slave, process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        os.close(master)
        os.close(slave)
