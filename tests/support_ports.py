"""Ports for tests that run at the same time as other tests: free ones, chosen by chance."""

import random
import socket

PORTS = range(20000, 30000)


def free_ports(count: int) -> range:
    """That many free ports in a row, chosen by chance: other stacks are made at the same time."""
    for _ in range(100):
        first = random.randrange(PORTS.start, PORTS.stop - count)
        found = range(first, first + count)
        if all(map(is_free, found)):
            return found
    raise AssertionError(f"no {count} free ports in a row in {PORTS}")


def is_free(port: int) -> bool:
    """Whether nobody listens there on loopback."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
