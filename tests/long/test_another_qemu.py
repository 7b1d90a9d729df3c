"""Warm starts on a newer QEMU than the one that is installed, in both ways of keeping a guest's memory.

PADDOCK_LONG_QEMU names the program, which is called as the installed one and has its firmware where it looks for it.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from paddock.base import clock
from paddock.hypervisor.qemu import binary
from paddock.hypervisor.qemu.warm.ways import COPIED, MAPPED_RAM, SHARED, Way
from tests.guests import test_warm as cases
from tests.guests.qemu_node import Node
from tests.guests.test_warm import Warm, with_generator

pytestmark = [pytest.mark.long, pytest.mark.guest]
PROGRAM = os.environ.get("PADDOCK_LONG_QEMU", "")
STARTS = 5
Note = Callable[[str, object], None]


@dataclass
class Tried:
    """A node whose QEMU keeps memory in that way."""

    warm: Warm
    way: Way


@pytest.fixture(scope="module", params=[SHARED, COPIED], ids=lambda way: way.name)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tried]:
    program = Path(PROGRAM)
    if not PROGRAM or program.name != binary.PROGRAM or not program.is_file():
        pytest.skip(f"PADDOCK_LONG_QEMU names no {binary.PROGRAM}: docs/testing-long.md says how to get one")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        if MAPPED_RAM not in binary.migration_capabilities(PROGRAM):
            pytest.skip(f"{PROGRAM} is older than 9.0: it has no {MAPPED_RAM}")
        patched.setattr(binary, "migration_capabilities", lambda _: frozenset({request.param.capability}))
        binary._ask.cache_clear()
        node = Node()
        try:
            source = tmp_path_factory.mktemp("warm") / "source"
            yield Tried(Warm(node, with_generator(source), source), request.param)
        finally:
            node.close()
            binary._ask.cache_clear()


@pytest.fixture
def tried(shared: Tried) -> Iterator[Tried]:
    for _ in cases.prepared(shared.warm):
        yield shared


def test_its_warm_starts_are_the_same(tried: Tried, record_property: Note) -> None:
    made = tried.warm.images()[0]
    parts = {path.name for path in tried.warm.directory(made).root.iterdir()}
    assert parts == {*tried.way.parts, "warm.json", "used"}
    cases.test_it_is_what_it_was_asked_to_be(tried.warm)
    took = [_took(tried.warm) for _ in range(STARTS)]
    said = f"{tried.way.capability}: {binary.find_binary().version}, {made.size / 2**20:.0f} MiB on disk"
    record_property("note", f"{said}, starts in {sorted(took)[STARTS // 2] * 1000:.0f} ms")


def _took(warm: Warm) -> float:
    machine = warm.define()
    begun = clock.monotonic()
    assert warm.start(machine).warm
    took = clock.monotonic() - begun
    warm.off(machine)
    return took


def test_they_share_nothing(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "CLONES", 6)
    cases.test_twenty_of_them_share_nothing(tried.warm)


def test_asleep_and_awake(tried: Tried) -> None:
    cases.test_asleep_and_awake(tried.warm)


def test_a_snapshot_of_one(tried: Tried, tmp_path: Path) -> None:
    cases.test_a_snapshot_has_all_of_its_disk(tried.warm, True, tmp_path)


def test_its_warm_image_is_removed_while_it_runs(tried: Tried) -> None:
    cases.test_its_warm_image_is_removed_while_it_runs(tried.warm)


def test_a_damaged_one_is_not_used(tried: Tried) -> None:
    cases.test_a_damaged_one_is_not_used(tried.warm, "ram")


def test_one_that_it_does_not_take(tried: Tried) -> None:
    cases.test_a_qemu_that_does_not_take_it_boots_instead(tried.warm)
