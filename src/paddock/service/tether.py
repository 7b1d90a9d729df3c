"""Run by path, before a child of the supervisor: `tether.py PARENT SIGNAL argv...` becomes argv, bound to its parent.

The kernel sends the signal when the supervisor ends, however it ends; so no api or worker outlives a killed one. Knows
only the standard library, for it runs by `python -I -S` and must cost milliseconds.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, number, argv = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        sys.exit(f"prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("the supervisor has ended already")
    try:
        os.execvp(argv[0], argv)  # noqa: S606 (we are that process now)
    except OSError as e:
        sys.exit(f"{argv[0]} could not be started: {e.strerror}")


if __name__ == "__main__":
    main()
