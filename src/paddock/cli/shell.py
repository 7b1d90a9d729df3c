"""`paddock shell`: a prompt that takes one command after the other, for those who stay a while.

Each line runs in a process of its own, so that ssh may take it over and Ctrl-C ends only that line.
"""

import os
import readline
import shlex
import signal
import sys
from collections.abc import Callable

from paddock.cli.fail import say

PROMPT = "paddock> "


def run_shell(run: Callable[[list[str]], int]) -> int:
    """Read and run lines until `exit` or the end of stdin; the exit code is that of the last line."""
    readline.set_history_length(1000)
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
