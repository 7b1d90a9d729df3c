"""What comes out of a machine: its console, its screen, its log; and commands in it."""

from uuid import UUID, uuid4

import anyio
import pytest
from anyio.abc import ByteStream

from paddock.base import clock
from paddock.base.errors import Conflict, Invalid, NotFound, PaddockError, Unavailable
from paddock.hypervisor.base import MAX_CHUNK, Hypervisor
from paddock.machine.spec import Power
from tests.contract.conftest import FAKES, Made
from tests.contract.harness import Harness, until


async def read_until(stream: ByteStream, wanted: bytes) -> bytes:
    heard = b""
    with anyio.fail_after(20):
        while wanted not in heard:
            heard += await stream.receive()
    return heard


def test_console_round_trip(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    until(lambda: hypervisor.streams.console_log(machine.uuid, 4096), lambda log: "contract" in log)

    async def talk() -> None:
        for word in (b"first", b"second"):  # and it can be opened again
            async with await hypervisor.streams.console(machine.uuid) as console:
                await console.send(word)
                assert await read_until(console, word)

    anyio.run(talk)
    log = until(lambda: hypervisor.streams.console_log(machine.uuid, 4096), lambda log: "second" in log)
    assert "first" in log
    assert hypervisor.streams.console_log(machine.uuid, 3) == log[-3:]


def test_console_shows_the_past_first(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    until(lambda: hypervisor.streams.console_log(machine.uuid, 4096), lambda log: "contract" in log)

    async def talk() -> None:
        async with await hypervisor.streams.console(machine.uuid) as console:
            await console.send(b"earlier")
            await read_until(console, b"earlier")
        async with await hypervisor.streams.console(machine.uuid, 4096) as console:
            await read_until(console, b"earlier")

    anyio.run(talk)


@pytest.mark.on("agent")  # a driver alone may serve one
def test_an_agent_serves_many_consoles_of_one_machine(harness: Harness, made: Made) -> None:
    machine = made.new()
    harness.hypervisor.machines.power(machine.uuid, Power.ON, 1)
    open_one = harness.hypervisor.streams.console

    async def talk() -> None:
        async with await open_one(machine.uuid) as first, await open_one(machine.uuid) as second:
            for writer, word in ((first, b"from the first"), (second, b"from the second")):
                await writer.send(word)
                assert await read_until(first, word)
                assert await read_until(second, word)

    anyio.run(talk)


def test_console_ends_with_the_machine(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    hypervisor.machines.power(machine.uuid, Power.ON_PAUSED, 1)

    async def watch() -> None:
        async with await hypervisor.streams.console(machine.uuid) as console:
            off = anyio.to_thread.run_sync(hypervisor.machines.power, machine.uuid, Power.OFF, 1)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: off)
                with anyio.fail_after(5), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await read_until(console, b"words that never come")

    anyio.run(watch)


def test_screen_speaks_rfb(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    hypervisor.machines.power(machine.uuid, Power.ON_PAUSED, 1)

    async def look() -> bytes:
        async with await hypervisor.streams.vnc(machine.uuid) as screen:
            return await read_until(screen, b"\n")

    assert anyio.run(look).startswith(b"RFB 003.00")


@pytest.mark.parametrize("what", ["console", "vnc"])
def test_streams_of_a_machine_that_is_off(hypervisor: Hypervisor, made: Made, what: str) -> None:
    async def open_of(uuid: UUID) -> None:
        await getattr(hypervisor.streams, what)(uuid)

    with pytest.raises(Conflict):
        anyio.run(open_of, made.new().uuid)
    with pytest.raises(NotFound):
        anyio.run(open_of, uuid4())


def test_log_of_a_machine_that_never_ran(hypervisor: Hypervisor, made: Made) -> None:
    assert hypervisor.streams.console_log(made.new().uuid, 100) == ""


def test_silent_guest_agent_is_unavailable_in_time(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    hypervisor.machines.power(machine.uuid, Power.ON_PAUSED, 1)
    start = clock.monotonic()
    with pytest.raises(Unavailable):
        hypervisor.guest.exec(machine.uuid, ("true",), "", 0.5)
    assert clock.monotonic() - start < 3


def test_guest_that_is_not_there(hypervisor: Hypervisor, made: Made) -> None:
    with pytest.raises(NotFound):
        hypervisor.guest.exec(uuid4(), ("true",), "", 0.5)
    with pytest.raises((Conflict, Unavailable)):
        hypervisor.guest.exec(made.new().uuid, ("true",), "", 0.5)


@pytest.mark.parametrize("shared", FAKES, indirect=True)  # a real guest of the contract's image has no guest agent
def test_commands_in_a_guest(harness: Harness, made: Made) -> None:
    guest = harness.hypervisor.guest
    machine = made.new()
    harness.hypervisor.machines.power(machine.uuid, Power.ON, 1)
    assert guest.exec(machine.uuid, ("echo", "a", "b"), "", 5).stdout == "a b\n"
    assert guest.exec(machine.uuid, ("hostname",), "", 5).stdout == "contract\n"
    assert guest.exec(machine.uuid, ("cat",), "héllo", 5).stdout == "héllo"
    assert guest.exec(machine.uuid, ("false",), "", 5).exit_code == 1
    assert guest.exec(machine.uuid, ("nothing-such",), "", 5).exit_code == 127


@pytest.mark.parametrize("shared", FAKES, indirect=True)  # as above
def test_files_of_a_guest(harness: Harness, made: Made) -> None:
    guest, machine = harness.hypervisor.guest, made.new().uuid
    harness.hypervisor.machines.power(machine, Power.ON, 1)
    assert guest.read_file(machine, "/etc/hostname", 0, 4).data == b"cont"
    rest = guest.read_file(machine, "/etc/hostname", 4, 100)
    assert (rest.data, rest.end) == (b"ract\n", True)
    guest.write_file(machine, "/etc/hostname", 3, bytes(range(256)))
    assert guest.read_file(machine, "/etc/hostname", 0, MAX_CHUNK).data == b"con" + bytes(range(256))
    large = bytes(MAX_CHUNK)
    guest.write_file(machine, "/etc/hostname", 0, large)
    assert guest.read_file(machine, "/etc/hostname", 0, MAX_CHUNK).data == large
    with pytest.raises(NotFound, match="there is no file /none"):
        guest.read_file(machine, "/none", 0, 10)
    with pytest.raises(NotFound, match="there is no file /none"):
        guest.write_file(machine, "/none", 0, b"x")


def test_files_of_a_silent_guest(hypervisor: Hypervisor, made: Made) -> None:
    with pytest.raises((Conflict, Unavailable)):
        hypervisor.guest.read_file(made.new().uuid, "/etc/hostname", 0, 10)
    with pytest.raises(NotFound):
        hypervisor.guest.write_file(uuid4(), "/etc/hostname", 0, b"x")


def test_keys(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new().uuid
    with pytest.raises(Conflict):
        hypervisor.streams.send_keys(machine, (("a",),))
    hypervisor.machines.power(machine, Power.ON_PAUSED, 1)
    hypervisor.streams.send_keys(machine, (("ctrl", "alt", "delete"), ("f1",), ("kp_0",)))
    for wrong in ((("ctrl", "nothing"),), ((),), (("a",) * 9,), (("a",),) * 129):
        with pytest.raises(Invalid):
            hypervisor.streams.send_keys(machine, wrong)


def test_errors_are_told_with_words(hypervisor: Hypervisor) -> None:
    with pytest.raises(PaddockError) as caught:
        hypervisor.machines.state(uuid4())
    assert len(caught.value.message) > 20
