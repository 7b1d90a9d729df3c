"""Works in the background: found by whoever asks, told once, and ended with what they are for."""

import threading
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from paddock.hypervisor.qemu import works
from paddock.hypervisor.qemu.works import Work, Works


class Waiting(Work):
    """One that ends when it is stopped, or told that it is done; or not even then."""

    def __init__(self, machine: UUID, *, deaf: bool = False) -> None:
        super().__init__("waiting", machine)
        self.finish = threading.Event()
        self._deaf = deaf

    def run(self) -> None:
        while not self.finish.wait(0.005):
            if self.stop.is_set() and not self._deaf:
                return


@pytest.fixture
def some(monkeypatch: pytest.MonkeyPatch) -> Iterator[Works[Waiting]]:
    monkeypatch.setattr(works, "PATIENCE", 0.02)
    monkeypatch.setattr(works, "GIVE_UP_WAIT", 0.05)
    made: Works[Waiting] = Works()
    yield made
    made.close()


def begun(some: Works[Waiting], machine: UUID, *, deaf: bool = False) -> tuple[UUID, Waiting]:
    key = uuid4()
    with some.lock:
        return key, some.begin(key, Waiting(machine, deaf=deaf))


def test_its_end_is_told_once(some: Works[Waiting]) -> None:
    machine = uuid4()
    key, work = begun(some, machine)
    some.look(key, work)
    assert some.find(key) is work
    assert some.busy(machine)
    assert not some.busy(uuid4())
    work.finish.set()
    work.join()
    assert some.find(key) is work
    assert not some.busy(machine)
    some.look(key, work)
    assert some.find(key) is None


def test_a_machine_that_is_removed_takes_its_own_with_it(some: Works[Waiting]) -> None:
    mine, other = uuid4(), uuid4()
    ours, theirs = [begun(some, mine)[1] for _ in range(2)], begun(some, other)[1]
    some.forget(mine)
    assert [work.is_alive() for work in (*ours, theirs)] == [False, False, True]
    some.close()
    assert not theirs.is_alive()
    some.forget(mine)


def test_one_that_does_not_end_is_told(some: Works[Waiting]) -> None:
    key, deaf = begun(some, uuid4(), deaf=True)
    assert not some.drop(key)
    deaf.finish.set()
    assert some.drop(key), "there is none any more"
    assert some.drop(uuid4())
