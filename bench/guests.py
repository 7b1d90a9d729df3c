"""Figures of real guests: one start, one boot, many at once, the end, and memory. All against raw QEMU."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from bench.figure import Figure, median, spread
from bench.host import born, cpu_by_name, less, listed, pss_mib
from bench.raw import Model, Raw
from bench.stack import JSON, Stack
from paddock.base import clock
from paddock.hypervisor.qemu.readiness import SSH_WAIT, ssh_banner

RAW_PORT = 28000
HOPE = 0.04  # seconds before a client's first look at a create: raw QEMU takes as long
POLL = 0.02  # seconds between its looks at an action
MANY = 20
BOOT_SECONDS = 300.0
SETTLE = 0.3  # seconds before each measurement, so that the one before has ended

_numbers = count()


class Guests:
    """Measures one stack on QEMU. `rounds`: of single starts; boots take seconds and have fewer."""

    def __init__(self, stack: Stack, rounds: int) -> None:
        self.stack, self.rounds = stack, rounds
        first = self._started(paused=True)  # the image's first start brings it to the node
        self.model = Model.of(stack.node_dir, first["server"]["x_uuid"], stack.root / "raw")
        stack.delete(first["server"]["id"])
        self._raw(paused=True).quit()  # both sides find warm files
        self.idle_mib = self._memory()

    def start(self) -> Iterator[Figure]:
        """One server, again and again, in turns with raw QEMU."""
        running, accepted, own, raw = [], [], [], []
        for _ in range(self.rounds):
            clock.sleep(SETTLE)
            asked = clock.now().timestamp()
            made = self.stack.create(self._name())
            answered = clock.now().timestamp()
            self.stack.finish(made["action"]["id"], 0.25)
            server = made["server"]
            seen = self.stack.at(server, "start")
            running.append((seen - asked) * 1000)
            accepted.append((seen - answered) * 1000)
            own.append((self._exec(server) - asked) * 1000)
            self.stack.delete(server["id"])
            clock.sleep(SETTLE)
            qemu = self._raw(paused=False)
            raw.append(qemu.seconds * 1000)
            qemu.quit()
        self.own_ms = median(own)
        yield Figure(
            "request sent → QEMU running, cold, tiny", median(running), "ms", median(raw), 2.5, 1.7,
            f"ours {spread(running)}; raw {spread(raw)}; from the API's answer on: {median(accepted):.0f} ms",
        )  # fmt: skip
        yield Figure("request sent → QEMU's exec", self.own_ms, "ms", note=spread(own))

    def boot(self) -> Iterator[Figure]:
        """Whole boots, until SSH answers."""
        ours, raw, lag = [], [], []
        for _ in range(max(3, self.rounds // 5)):
            asked = clock.now().timestamp()
            made = self.stack.create(self._name())
            banner = first_banner(self._ssh_port(made))
            ours.append(banner - asked)
            server = self._ready(made["server"])
            lag.append(max(0.0, self.stack.at(server, "watch") - banner) * 1000)
            self.stack.delete(server["id"])
            qemu = self._raw(paused=False)
            raw.append(first_banner(RAW_PORT) - qemu.began)
            qemu.quit()
        yield Figure(
            "lag in noticing that SSH answers",
            median(lag),
            "ms",
            note=f"{spread(lag)}; 0: seen at once, or by another sign",
        )
        yield Figure(
            "our own time: to QEMU's exec, and that lag", self.own_ms + median(lag), "ms", limit=250
        )  # fmt: skip
        yield Figure(
            "request sent → SSH banner, tiny", median(ours), "s", median(raw),
            note=f"ours {spread(ours, 's')}; raw {spread(raw, 's')}",
        )  # fmt: skip

    def many(self) -> Iterator[Figure]:
        """Twenty servers started paused: one after another, then all at once; and what they cost us."""
        yield from self._many("one after another", self._in_turn, 1, 2.0)
        yield from self._many("all at once", self._at_once, 4, 3.0, memory=True)

    def end(self) -> Iterator[Figure]:
        """Power off, and delete what is off, and what runs."""
        off, gone, gone_running, raw = [], [], [], []
        for _ in range(self.rounds):
            server = self._started(paused=True)["server"]
            clock.sleep(SETTLE)
            asked = clock.now().timestamp()
            action = self.stack.call("POST", f"/v1/servers/{server['id']}/actions/poweroff")["action"]
            self.stack.finish(action["id"], POLL)
            off.append((self.stack.at(server, "power_off") - asked) * 1000)
            gone.append(self._deletion(server))
            server = self._started(paused=True)["server"]
            clock.sleep(SETTLE)
            gone_running.append(self._deletion(server))
            qemu = self._raw(paused=True)
            clock.sleep(SETTLE)
            raw.append(qemu.quit() * 1000)
        yield Figure("power off → off", median(off), "ms", median(raw), note=f"{spread(off)}; raw is `quit`")
        yield Figure("delete of one that is off → gone", median(gone), "ms", aim=20, note=spread(gone))
        yield Figure(
            "delete of one that runs → gone", median(gone_running), "ms", median(raw), note=spread(gone_running)
        )

    def _many(
        self, how: str, create: Callable[[], list[JSON]], threads: int, limit: float, memory: bool = False
    ) -> Iterator[Figure]:
        seconds, cpu, raw, mib = [], [], [], []
        for _ in range(3):
            clock.sleep(SETTLE)
            before, idle = cpu_by_name(self.stack.pids()), self._memory()
            began = clock.now().timestamp()
            servers = create()
            cpu.append(less(cpu_by_name(self.stack.pids()), before, 1000 / MANY))
            seconds.append(max(self.stack.at(s, "start") for s in servers) - began)
            mib.append((self._memory() - idle) / MANY)
            for server in servers:
                self.stack.call("DELETE", f"/v1/servers/{server['id']}")
            for server in servers:
                self.stack.wait_gone(server["id"])
            clock.sleep(SETTLE)
            raw.append(self._raw_many(threads))
        yield Figure(
            f"{MANY} servers started paused, {how}", median(seconds), "s", median(raw), limit,
            note=f"ours {spread(seconds, 's')}; raw {spread(raw, 's')}, {threads} at a time",
        )  # fmt: skip
        whole = [sum(one.values()) for one in cpu]
        note = f"{spread(whole)}; the last: {listed(cpu[-1])}"
        yield Figure(f"our CPU per create, {how}", median(whole), "ms", limit=40, note=note)
        if memory:
            yield Figure("our memory, idle, in all (PSS)", self.idle_mib, "MiB", limit=250)
            yield Figure("our memory per running server (PSS)", max(0.0, median(mib)), "MiB", limit=1)

    def _in_turn(self) -> list[JSON]:
        servers = []
        for _ in range(MANY):
            made = self.stack.create(self._name(), x_start_paused=True)
            clock.sleep(HOPE)
            self.stack.finish(made["action"]["id"], POLL)
            servers.append(made["server"])
        return servers

    def _at_once(self) -> list[JSON]:
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda _: self.stack.create(self._name(), x_start_paused=True), range(MANY)))
        self.stack.finish_all([one["action"]["id"] for one in made], 0.25)
        return [one["server"] for one in made]

    def _raw_many(self, threads: int) -> float:
        places = [self.model.prepare(n) for n in range(MANY)]
        words = [self.model.words(RAW_PORT + n, paused=True) for n in range(MANY)]
        began = clock.monotonic()
        with ThreadPoolExecutor(threads) as pool:
            running = list(pool.map(Raw, words, places))
        took = clock.monotonic() - began
        for qemu in running:
            qemu.quit()
        return took

    def _raw(self, *, paused: bool) -> Raw:
        place = self.model.prepare(0)
        return Raw(self.model.words(RAW_PORT, paused=paused), place)

    def _started(self, *, paused: bool) -> JSON:
        made = self.stack.create(self._name(), x_start_paused=paused)
        self.stack.finish(made["action"]["id"], POLL)
        return made

    def _deletion(self, server: JSON) -> float:
        asked = clock.now().timestamp()
        self.stack.call("DELETE", f"/v1/servers/{server['id']}")
        self.stack.wait_gone(server["id"], 0.005)
        return (clock.now().timestamp() - asked) * 1000

    def _ready(self, server: JSON) -> JSON:
        end = clock.monotonic() + BOOT_SECONDS
        while not (now := self.stack.call("GET", f"/v1/servers/{server['id']}")["server"])["x_ready"]["ready"]:
            assert clock.monotonic() < end, now
            clock.sleep(0.1)
        return server

    def _ssh_port(self, made: JSON) -> int:
        self.stack.finish(made["action"]["id"], 0.1)
        port: int = self.stack.call("GET", f"/v1/servers/{made['server']['id']}")["server"]["x_ssh"]["port"]
        return port

    def _exec(self, server: JSON) -> float:
        """QEMU's log is made right before it is started."""
        return born(self.stack.node_dir / "machines" / server["x_uuid"] / "qemu.log")

    def _memory(self) -> float:
        return pss_mib(self.stack.pids())

    def _name(self) -> str:
        return f"bench-{next(_numbers)}"


def first_banner(port: int, wait: float = SSH_WAIT[1]) -> float:
    """When an SSH server first said its version there: the same looks at Paddock's guests and at raw ones. `wait`:
    seconds of the first look, of which each is longer than the one before."""
    end = clock.monotonic() + BOOT_SECONDS
    while not ssh_banner("127.0.0.1", port, wait):
        assert clock.monotonic() < end, f"no SSH on port {port}"
        wait = min(wait * 2, SSH_WAIT[1])
        clock.sleep(0.02)
    return clock.now().timestamp()
