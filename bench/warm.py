"""Figures of warm starts: against a bare QEMU that restores the same warm image, and against cold starts."""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from bench.figure import Figure, median, spread
from bench.guests import SETTLE, first_banner
from bench.host import pss_mib
from bench.raw import Raw
from bench.stack import JSON, Stack
from paddock.base import clock, run
from paddock.hypervisor.qemu import disks, identity
from paddock.hypervisor.qemu.binary import find_binary
from paddock.hypervisor.qemu.guest_agent import GuestAgent
from paddock.hypervisor.qemu.layout import Layout, MachineDir, warm_file
from paddock.hypervisor.qemu.record import read_run, read_spec
from paddock.hypervisor.qemu.warm import start
from paddock.machine.image import ImageManifest
from paddock.machine.spec import Machine
from paddock.machine.state import Accelerator

MAKING_SECONDS = 1800.0
PING_SECONDS = 60.0
IDLE_SECONDS = 60.0
MANY = 50

_numbers = count()


class WarmGuests:
    """Measures warm starts of one image on a stack; the image must be there."""

    def __init__(self, stack: Stack, rounds: int, image: str, plan: str) -> None:
        self.stack, self.rounds, self.image, self.plan = stack, rounds, image, plan
        self.layout = Layout(stack.node_dir)
        self._made()

    def start(self) -> Iterator[Figure]:
        """One server, again and again, in turns with a bare QEMU."""
        ours: list[float] = []
        raw: list[float] = []
        for _ in range(self.rounds):
            clock.sleep(SETTLE)
            asked = clock.now().timestamp()
            made = self._create()
            self.stack.finish(made["action"]["id"], 0.02)
            ours.append((self._began(made["server"]) - asked) * 1000)
            if not raw:
                self.model = self._model(made["server"])
            self.stack.delete(made["server"]["id"])
            clock.sleep(SETTLE)
            raw.append(self._bare(0) * 1000)
        yield Figure(
            f"request sent → guest agent answers, warm, {self.image}", median(ours), "ms", median(raw), 1.6, 1.3,
            f"ours {spread(ours)}; a bare restore, resume and ping {spread(raw)}",
        )  # fmt: skip

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
        """What is a server's own of its memory, when it has been idle for a while."""
        warm, cold = (self._started(**about) for about in ({}, {"x_warm": False}))
        clock.sleep(IDLE_SECONDS)
        own = [pss_mib({self._pid(server): ""}) for server in (warm, cold)]
        for server in (warm, cold):
            self.stack.delete(server["id"])
        limit = 0.6 if self.image.startswith("debian") else 0.3
        yield Figure(f"memory of a warm server against a cold one (PSS), {self.image}", own[0], "MiB", own[1], limit)

    def many(self) -> Iterator[Figure]:
        """Fifty at once."""
        asked = clock.now().timestamp()
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda _: self._create(), range(MANY)))
        self.stack.finish_all([one["action"]["id"] for one in made], 0.25)
        ours = max(self._began(one["server"]) for one in made) - asked
        for one in made:
            self.stack.call("DELETE", f"/v1/servers/{one['server']['id']}")
        for one in made:
            self.stack.wait_gone(one["server"]["id"])
        clock.sleep(SETTLE)
        began = clock.monotonic()
        with ThreadPoolExecutor(4) as pool:
            kept = list(pool.map(self._restored, range(MANY)))
        raw = clock.monotonic() - began
        for qemu in kept:
            qemu.kill()
        yield Figure(f"{MANY} warm servers of {self.image} at once", ours, "s", raw, 1.3, note="bare: 4 at a time")

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

    def _began(self, server: JSON) -> float:
        """When it was written down that QEMU runs, which is after the guest agent's answers."""
        now = self.stack.call("GET", f"/v1/servers/{server['id']}")["server"]
        assert now["x_began"] == "warm", now["x_not_warm"]
        return self.stack.at(server, "start")

    def _banner(self, **more: object) -> float:
        asked = clock.now().timestamp()
        made = self._create(**more)
        self.stack.finish(made["action"]["id"], 0.05)
        server = self.stack.call("GET", f"/v1/servers/{made['server']['id']}")["server"]
        took = first_banner(server["x_ssh"]["port"]) - asked
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
        place = self._place(number)
        began = clock.monotonic()
        qemu = self._restored_in(place)
        took = clock.monotonic() - began
        qemu.kill()
        return took

    def _restored(self, number: int) -> Raw:
        return self._restored_in(self._place(number))

    def _place(self, number: int) -> MachineDir:
        """Files to start in, which are not part of what is measured."""
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

    def _restored_in(self, directory: MachineDir) -> Raw:
        """Spawn, restore, resume, ping."""
        machine, manifest, warm = self.model
        words = start.words(machine, manifest, find_binary(), Accelerator.TCG, warm)
        devices = os.open(self.layout.warm_image(warm).devices, os.O_RDONLY)
        try:
            qemu = Raw(words, directory, (devices,))
        finally:
            os.close(devices)
        state = [{"capability": start.IGNORE_SHARED, "state": True}]
        qemu.ask("migrate-set-capabilities", {"capabilities": state})
        qemu.ask("migrate-incoming", {"uri": f"fd:{devices}"})
        while qemu.ask("query-status")["status"] == "inmigrate":
            clock.sleep(0.001)
        qemu.ask("cont")
        agent = GuestAgent(lambda timeout: _agent_socket(directory, timeout))
        assert agent.ping(PING_SECONDS)
        return qemu


def _agent_socket(directory: MachineDir, timeout: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    fd = os.open(directory.root, os.O_PATH | os.O_DIRECTORY)
    try:
        sock.connect(f"/proc/self/fd/{fd}/agent.sock")
    finally:
        os.close(fd)
    return sock
