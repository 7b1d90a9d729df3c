"""Where the program `paddock` begins: Ctrl-C ends it without a word while its parts are still being read in."""

import signal

HEEDED = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a shell's background jobs ignore it
if HEEDED:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from paddock.cli import main as program  # noqa: E402  (it takes a moment, in which somebody may change their mind)


def main() -> None:
    """The program."""
    if HEEDED:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    program.main()
