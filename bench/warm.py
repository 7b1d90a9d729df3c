"""Figures of warm starts: against a bare QEMU that restores the same warm image, and against cold starts."""

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from bench.figure import Figure, median, spread
from bench.guests import SETTLE, first_banner
from bench.host import guest_pss_mib, pss_mib
from bench.raw import Raw
from bench.stack import JSON, Stack
from paddock.base import clock, run
from paddock.hypervisor.qemu import disks, identity
from paddock.hypervisor.qemu.binary import find_binary
from paddock.hypervisor.qemu.guest_agent import GuestAgent
from paddock.hypervisor.qemu.layout import Layout, MachineDir, warm_file
from paddock.hypervisor.qemu.readiness import SSH_WAIT
from paddock.hypervisor.qemu.record import read_run, read_spec
from paddock.hypervisor.qemu.warm import start
from paddock.hypervisor.qemu.warm.ways import IGNORE_SHARED
from paddock.machine.image import ImageManifest
from paddock.machine.spec import Machine
from paddock.machine.state import Accelerator

MAKING_SECONDS = 1800.0
PING_SECONDS = 60.0
IDLE_SECONDS = 60.0
MANY = 50
STARTS = 8  # rounds of single starts, at least: two of them differ by a half
SHARING = 4

_numbers = count()


class WarmGuests:
    """Measures warm starts of one image on a stack; the image must be there."""

    def __init__(self, stack: Stack, rounds: int, image: str, plan: str) -> None:
        self.stack, self.rounds, self.image, self.plan = stack, rounds, image, plan
        self.layout = Layout(stack.node_dir)
        self.model: tuple[Machine, ImageManifest, str] | None = None
        self.held = 0
        self._made()

    def start(self) -> Iterator[Figure]:
        """One server, again and again, in turns with a bare QEMU."""
        ours, itself, raw = self._in_turns(lambda: self._bare(0) * 1000)
        yield Figure(
            f"request sent → guest agent answers, warm, {self.image}", median(ours), "ms", median(raw), 1.6, 1.3,
            f"ours {spread(ours)}; a bare restore, resume and ping {spread(raw)}",
        )  # fmt: skip
        yield Figure(
            f"request sent → new randomness, and a network card, warm, {self.image}", median(itself), "ms",
            note=spread(itself),
        )  # fmt: skip

    def pool(self) -> Iterator[Figure]:
        """The same out of a pool, in turns with a bare QEMU that stands still, restored."""
        self._hold(1)
        ours, itself, raw = self._in_turns(lambda: self._bare_resume() * 1000, "pool")
        self._hold(0)
        yield Figure(
            f"request sent → guest agent answers, pool, {self.image}", median(ours), "ms", median(raw), 1.6,
            note=f"ours {spread(ours)}; a bare resume and ping {spread(raw)}",
        )  # fmt: skip
        yield Figure(
            f"request sent → new randomness, and a network card, pool, {self.image}", median(itself), "ms",
            note=spread(itself),
        )  # fmt: skip

    def _in_turns(self, bare: Callable[[], float], began: str = "warm") -> tuple[list[float], list[float], list[float]]:
        """Milliseconds of ours to the guest agent's first word and to the end of the start, and of the bare one."""
        ours: list[float] = []
        itself: list[float] = []
        raw: list[float] = []
        for _ in range(max(self.rounds, STARTS)):
            self._wait_held()
            clock.sleep(SETTLE)
            asked = clock.now().timestamp()
            made = self._create()
            self.stack.finish(made["action"]["id"], 0.02)
            server = made["server"]
            ours.append((self._answered(server, began) - asked) * 1000)
            itself.append((self.stack.at(server, "start") - asked) * 1000)
            if self.model is None:
                self.model = self._model(server)
            self.stack.delete(server["id"])
            clock.sleep(SETTLE)
            raw.append(bare())
        return ours, itself, raw

    def _hold(self, count: int) -> None:
        """Have so many guests held ready."""
        wanted = {"image": self.image, "server_type": self.plan, "count": count}
        answer = self.stack.call("PUT", "/admin/v1/pools", wanted)
        self.held = count
        if answer["action"]:
            self.stack.finish(answer["action"]["id"], 0.5)

    def _wait_held(self) -> None:
        while self.held and self.stack.call("GET", "/admin/v1/pools")["pools"][0]["nodes"][0]["ready"] < self.held:
            clock.sleep(0.2)

    def reach(self) -> Iterator[Figure]:
        """Until SSH answers, with a host key of its own; warm and cold."""
        warm, cold = [], []
        for _ in range(max(1, self.rounds // 5)):
            warm.append(self._banner())
            cold.append(self._banner(x_warm=False))
        limit = 1 / 15 if self.image.startswith("debian") else None
        yield Figure(
            f"request sent → SSH banner, warm against cold, {self.image}", median(warm), "s", median(cold), limit,
            note=f"warm {spread(warm, 's')}; cold {spread(cold, 's')}",
        )  # fmt: skip

    def memory(self) -> Iterator[Figure]:
        """What is a server's own of its memory, when it has been idle for a while: one of several, since a single one
        would have all for its own that it shares."""
        warm, cold = [self._started() for _ in range(SHARING)], self._started(x_warm=False)
        clock.sleep(IDLE_SECONDS)
        shared, own = (pss_mib({self._pid(server): "" for server in these}) for these in (warm, [cold]))
        alone = [guest_pss_mib(self._pid(server), self._memory_of(server)) for server in (*warm, cold)]
        for server in (*warm, cold):
            self.stack.delete(server["id"])
        limit = 0.6 if self.image.startswith("debian") else 0.3
        yield Figure(
            f"memory of a warm server against a cold one (PSS), {self.image}", shared / SHARING, "MiB", own, limit,
            note=f"one of {SHARING} warm ones",
        )  # fmt: skip
        yield Figure(
            f"the same of its guest alone, without what QEMU needs to emulate it, {self.image}",
            sum(alone[:-1]) / SHARING, "MiB", alone[-1], note=f"one of {SHARING} warm ones",
        )  # fmt: skip

    def _memory_of(self, server: JSON) -> int:
        spec = read_spec(self.layout.machine(server["x_uuid"]))
        assert spec
        return spec.machine.memory_mib

    def many(self) -> Iterator[Figure]:
        """Fifty at once."""
        asked = clock.now().timestamp()
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda _: self._create(), range(MANY)))
        self.stack.finish_all([one["action"]["id"] for one in made], 0.25)
        ours = max(self._answered(one["server"]) for one in made) - asked
        itself = max(self.stack.at(one["server"], "start") for one in made) - asked
        for one in made:
            self.stack.call("DELETE", f"/v1/servers/{one['server']['id']}")
        for one in made:
            self.stack.wait_gone(one["server"]["id"])
        clock.sleep(SETTLE)
        began = clock.monotonic()
        with ThreadPoolExecutor(4) as pool:
            kept = list(pool.map(self._woken, range(MANY)))
        raw = clock.monotonic() - began
        for qemu in kept:
            qemu.kill()
        yield Figure(
            f"{MANY} warm servers of {self.image} at once, to the last guest agent's answer", ours, "s", raw, 1.3,
            note=f"bare: 4 at a time; ours all with new randomness and a network card after {itself:.1f} s",
        )  # fmt: skip

    def _made(self) -> None:
        image = self.stack.call("GET", f"/v1/images?name={self.image}")["images"][0]
        action = self.stack.call("POST", f"/admin/v1/images/{image['id']}/warm", {"server_type": self.plan})["action"]
        self.stack.finish(action["id"], 0.5)

    def _create(self, **more: object) -> JSON:
        about = {"image": self.image, "server_type": self.plan, **more}
        return self.stack.create(f"warm-{next(_numbers)}", **about)

    def _started(self, **more: object) -> JSON:
        made = self._create(**more)
        self.stack.finish(made["action"]["id"], 0.1)
        server: JSON = self.stack.call("GET", f"/v1/servers/{made['server']['id']}")["server"]
        first_banner(server["x_ssh"]["port"])
        return server

    def _answered(self, server: JSON, began: str = "warm") -> float:
        """When its guest agent said its first word, as its node wrote down."""
        now = self.stack.call("GET", f"/v1/servers/{server['id']}")["server"]
        assert now["x_began"] == began, (now["x_began"], now["x_not_warm"])
        answered = read_run(self.layout.machine(now["x_uuid"])).answered
        assert answered
        return answered.timestamp()

    def _banner(self, **more: object) -> float:
        asked = clock.now().timestamp()
        made = self._create(**more)
        self.stack.finish(made["action"]["id"], 0.05)
        server = self.stack.call("GET", f"/v1/servers/{made['server']['id']}")["server"]
        took = first_banner(server["x_ssh"]["port"], SSH_WAIT[0]) - asked
        self.stack.delete(server["id"])
        return took

    def _pid(self, server: JSON) -> int:
        pid = read_run(self.layout.machine(server["x_uuid"])).pid
        assert pid
        return pid

    def _model(self, server: JSON) -> tuple[Machine, ImageManifest, str]:
        directory = self.layout.machine(server["x_uuid"])
        spec = read_spec(directory)
        assert spec
        text = (self.layout.image(spec.machine.image) / "manifest.json").read_bytes()
        return spec.machine, ImageManifest.model_validate_json(text), disks.warm_of(directory.root)

    def _bare(self, number: int) -> float:
        """Seconds of a spawn, restore, resume and ping."""
        place = self._place(number)
        began = clock.monotonic()
        qemu = self._restored(place)
        _resume(qemu, place)
        took = clock.monotonic() - began
        qemu.kill()
        return took

    def _bare_resume(self) -> float:
        """Seconds of a resume and ping."""
        place = self._place(0)
        qemu = self._restored(place)
        clock.sleep(SETTLE)
        began = clock.monotonic()
        _resume(qemu, place)
        took = clock.monotonic() - began
        qemu.kill()
        return took

    def _woken(self, number: int) -> Raw:
        place = self._place(number)
        qemu = self._restored(place)
        _resume(qemu, place)
        return qemu

    def _place(self, number: int) -> MachineDir:
        """Files to start in, which are not part of what is measured."""
        assert self.model
        machine, _, warm = self.model
        directory = MachineDir(self.stack.node_dir / "machines" / f"bare-{number}")
        run.run(["rm", "-rf", directory.root])
        identity.make_machine_directory(directory.root)
        disks.make_over(directory, warm_file(warm, disks.WARM_DISK), machine.system_disk.size)
        directory.seed.write_bytes(bytes(256 * 1024))
        directory.serial_log.touch()
        for path in (directory.system_disk, directory.seed, directory.serial_log):
            identity.give(path, writable=True)
        return directory

    def _restored(self, directory: MachineDir) -> Raw:
        """Spawned and restored; its guest stands still."""
        assert self.model
        machine, manifest, warm = self.model
        words = start.words(machine, manifest, find_binary(), Accelerator.TCG, warm)
        devices = os.open(self.layout.warm_image(warm).devices, os.O_RDONLY)
        try:
            qemu = Raw(words, directory, (devices,))
        finally:
            os.close(devices)
        state = [{"capability": IGNORE_SHARED, "state": True}]
        qemu.ask("migrate-set-capabilities", {"capabilities": state})
        qemu.ask("migrate-incoming", {"uri": f"fd:{devices}"})
        while qemu.ask("query-status")["status"] == "inmigrate":
            clock.sleep(0.001)
        return qemu


def _resume(qemu: Raw, directory: MachineDir) -> None:
    """Resume and ping."""
    qemu.ask("cont")
    agent = GuestAgent(lambda timeout: _agent_socket(directory, timeout))
    assert agent.ping(PING_SECONDS)


def _agent_socket(directory: MachineDir, timeout: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    fd = os.open(directory.root, os.O_PATH | os.O_DIRECTORY)
    try:
        sock.connect(f"/proc/self/fd/{fd}/agent.sock")
    finally:
        os.close(fd)
    return sock
