"""`python -m bench`: measure, print the table, leave it in `bench/results/`."""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import control, host, profiles, report
from bench.figure import Figure
from bench.guests import Guests
from bench.stack import Stack
from bench.warm import WarmGuests
from paddock.base import clock
from tests.support_images import built_image

ON_QEMU = ("start", "boot", "many", "end")
PARTS = (*ON_QEMU, "idle", "list", "scale", "creates", "warm", "warm-debian")


def main() -> int:
    """Exit code 0 even when a limit is not kept: the table says so."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="measure these parts, save nothing")
    parser.add_argument("--rounds", type=int, default=15, help="of each single measurement (%(default)s)")
    parser.add_argument("--profile", action="store_true", help="profile the stack of guests, too (all gets slower)")
    options = parser.parse_args()
    facts = {"when": clock.now().isoformat(timespec="seconds"), **host.facts()}
    figures = []
    with tempfile.TemporaryDirectory(prefix="pkb-samples-") as samples:
        for figure in _measure(options.only, options.rounds, Path(samples), options.profile):
            figures.append(figure)
            print(f"{figure.name}: {figure.judged:.3g}", file=sys.stderr, flush=True)
        found = profiles.table(Path(samples), 15)
    report.show(figures)
    if set(options.only) == set(PARTS):
        facts["load when it ended"] = host.facts()["load when it began"]
        report.save(figures, facts, " ".join(["python -m bench", *sys.argv[1:]]), found)
    elif found:
        print(found)
    return 0


def _measure(parts: tuple[str, ...], rounds: int, samples: Path, sampled: bool) -> Iterator[Figure]:
    wanted = [p for p in PARTS if p in parts]
    if {*ON_QEMU, "idle"} & set(wanted):
        with Stack("qemu", sampled=samples if sampled else None) as stack:
            yield from _guests(stack, wanted, rounds)
    if "warm" in wanted:
        with Stack("qemu") as stack:
            tiny = WarmGuests(stack, rounds, "tiny", "nano")
            for part in (tiny.start, tiny.pool, tiny.reach, tiny.memory, tiny.many):
                yield from part()
    if "warm-debian" in wanted:
        with Stack("qemu") as stack:
            stack.seed("--image", built_image("debian-12").directory)
            debian = WarmGuests(stack, rounds, "debian-12", "small")
            for part in (debian.start, debian.pool, debian.reach, debian.memory):
                yield from part()
    if "list" in wanted:
        with Stack("fake") as stack:
            yield from control.listing(stack, rounds)
    if "scale" in wanted:
        with Stack("fake") as stack:
            yield from control.scale(stack, rounds)
    if "creates" in wanted:
        with Stack("fake", ssh_ports=1000) as stack:
            yield from control.creates(stack)
        with Stack("fake", ssh_ports=1000, sampled=samples) as stack:
            list(control.creates(stack))
            clock.sleep(3)  # the samplers write every two seconds


def _guests(stack: Stack, wanted: list[str], rounds: int) -> Iterator[Figure]:
    if "idle" in wanted:
        yield from control.idle(stack, 20)
    guests = Guests(stack, rounds)
    for part in wanted:
        if part in ON_QEMU:
            yield from getattr(guests, part)()


if __name__ == "__main__":
    sys.exit(main())
