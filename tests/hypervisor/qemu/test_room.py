"""Helper guests wait for memory, and for one another."""

import threading
from contextlib import ExitStack

import pytest

from paddock.base import clock
from paddock.base.errors import Unavailable
from paddock.hypervisor.qemu import room
from paddock.hypervisor.qemu.room import RESERVE_MIB, Room


class TooLong(Exception):
    pass


def waits(of: Room, mib: int) -> str:
    """What it waits for; empty: it need not."""
    told: list[str] = []

    def wait(lacking: str) -> None:
        told.append(lacking)
        raise TooLong

    try:
        with of.taken(mib, wait):
            return ""
    except TooLong:
        return told[0]


def never(_lacking: str) -> None:
    raise AssertionError


def test_a_reserve_stays_free() -> None:
    assert waits(Room(2, lambda: 400 + RESERVE_MIB), 400) == ""
    said = waits(Room(2, lambda: 399 + RESERVE_MIB), 400)
    assert said == "for memory: 399 MiB can be spared of the 400 MiB that are needed"
    assert waits(Room(2, lambda: 100), 400).startswith("for memory: 0 MiB")


def test_one_that_has_just_begun_counts_as_a_whole() -> None:
    of = Room(2, lambda: 700 + RESERVE_MIB)
    with of.taken(400, never):
        assert waits(of, 300) == ""
        assert waits(of, 301).startswith("for memory: 300 MiB")
    assert waits(of, 700) == ""


def test_only_so_many_at_once() -> None:
    of = Room(2, lambda: 2**20)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(of.taken(400, never))
        assert waits(of, 1) == "for another helper guest to end"
    assert waits(of, 1) == ""


def test_one_that_fails_gives_it_back() -> None:
    of = Room(1, lambda: 2**20)
    for _ in range(3):
        with pytest.raises(TooLong), of.taken(400, never):
            raise TooLong


def test_it_goes_on_when_there_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    free, told = [100], []

    def wait(lacking: str) -> None:
        told.append(lacking)
        free[0] = 2**20

    monkeypatch.setattr(room, "EVERY", 0.001)
    with Room(1, lambda: free[0]).taken(400, wait):
        assert len(told) == 1


def test_nobody_waits_for_memory_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "EVERY", 0.001)
    monkeypatch.setattr(room, "MEMORY_WAIT", 0.005)
    with pytest.raises(Unavailable, match="no memory for a helper guest of 400 MiB"), \
            Room(1, lambda: 100).taken(400, lambda _: None):  # fmt: skip
        raise AssertionError


def test_its_turn_may_take_longer_than_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "EVERY", 0.001)
    monkeypatch.setattr(room, "MEMORY_WAIT", 0.005)
    of, waited, end = Room(1, lambda: 2**20), threading.Event(), threading.Event()

    def first() -> None:
        with of.taken(400, never):
            waited.wait(10)
            clock.sleep(0.1)
        end.set()

    thread = threading.Thread(target=first)
    thread.start()
    try:
        with of.taken(400, lambda _: waited.set()):
            assert end.wait(10)
    finally:
        waited.set()
        thread.join()


def test_what_this_host_has() -> None:
    assert room.free_mib() > 0
