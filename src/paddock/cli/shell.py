"""`paddock shell`: a prompt that takes one command after the other, for those who stay a while.

Each line runs in a process of its own, so that ssh may take it over and Ctrl-C ends only that line.
"""

import contextlib
import os
import readline
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from paddock.cli.fail import say

PROMPT = "paddock> "
Completions = Callable[[list[str]], list[str]]  # the words before the one that is typed, to all that it may be


def run_shell(run: Callable[[list[str]], int], completions: Completions, history: Path) -> int:
    """Read and run lines until `exit` or the end of stdin; the exit code is that of the last line."""
    if not sys.stdin.isatty():
        return _loop(run)
    print("Paddock\ntype 'help' for a list of all commands, 'exit' to leave")
    with _remembered(history):
        readline.set_completer_delims(" ")
        readline.set_completer(_completer(completions))
        readline.parse_and_bind("tab: complete")
        return _loop(run)


@contextlib.contextmanager
def _remembered(history: Path) -> Iterator[None]:
    """With the lines of earlier times, which only this user may read."""
    os.close(os.open(history, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    readline.set_history_length(1000)
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            readline.write_history_file(history)


def _completer(completions: Completions) -> Callable[[str, int], str | None]:
    """As readline asks for them: one by one, for the same text."""
    found: list[str] = []

    def complete(text: str, number: int) -> str | None:
        if number == 0:
            before = readline.get_line_buffer()[: readline.get_begidx()].split()
            found[:] = [f"{word} " for word in completions(before) if word.startswith(text)]
        return found[number] if number < len(found) else None

    return complete


def _loop(run: Callable[[list[str]], int]) -> int:
    code = 0
    while True:
        try:
            line = input(PROMPT if sys.stdin.isatty() else "")
        except EOFError:
            return code
        except KeyboardInterrupt:
            print()
            continue
        words = _words(line)
        if words in (["exit"], ["quit"]):
            return code
        if words:
            code = _run(run, words)


def _words(line: str) -> list[str]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError as e:
        say(f"this line can't be read: {e}", "quotes must be closed")
        return []
    if words[:1] == ["help"]:
        return [*words[1:], "--help"]
    return words[1:] if words[:1] == ["paddock"] else words


def _run(run: Callable[[list[str]], int], words: list[str]) -> int:
    sys.stdout.flush()
    child = os.fork()
    if not child:
        code = run(words)
        sys.stdout.flush()
        os._exit(code)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        signal.signal(signal.SIGINT, before)
