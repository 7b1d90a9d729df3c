"""A cloud in the test's own process: real rows, real engine, a real agent; only the queue is turned by hand.

Its node's hypervisor is the fake, or QEMU: then nobody waits for guests to boot, only for what was asked for.
"""

import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings
from django.db import connection

from paddock.base import clock
from paddock.base.errors import PaddockError
from paddock.base.run import run
from paddock.cloud.flows import engine, image, node, quota, server, volume  # noqa: F401  # registers the flows
from paddock.cloud.flows.engine import Flow, advance
from paddock.cloud.flows.steps import Gone
from paddock.cloud.models import (
    Action,
    Image,
    Living,
    Node,
    Project,
    Server,
    ServerType,
)
from paddock.cloud.nodes import hypervisor
from paddock.hypervisor.base import Hypervisor
from paddock.hypervisor.faults import FaultOrder
from paddock.hypervisor.remote import RemoteHypervisor
from paddock.images.store import ImageStore
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import GIB, Machine
from paddock.service import procs
from tests.agent.process import AgentProcess
from tests.support_images import built_image
from tests.support_ports import free_ports

PATIENCE = 20.0  # seconds until a flow must have come to rest
# Said in one go: this is done after hundreds of tests.
EMPTY = f"""
DELETE FROM cloud_volume;
DELETE FROM cloud_consolesession;
DELETE FROM cloud_server;
DELETE FROM cloud_placementgroup;
DELETE FROM cloud_action;
DELETE FROM cloud_event;
DELETE FROM cloud_imagecopy;
DELETE FROM cloud_sshkey;
DELETE FROM cloud_baseconfiguration;
DELETE FROM cloud_pool;
DELETE FROM cloud_image WHERE project_id IS NOT NULL OR type NOT IN ('system', 'rescue', 'blank');
UPDATE cloud_image SET state = 'absent', sha256 = '', manifest = '{{}}', step = 'rest', next_at = NULL
  WHERE type IN ('rescue', 'blank');
UPDATE cloud_image SET state = 'absent', step = 'rest', next_at = NULL WHERE catalogue AND url <> '';
DELETE FROM cloud_token WHERE project_id IN (SELECT id FROM cloud_project WHERE name <> 'default');
DELETE FROM cloud_idempotencykey WHERE project_id IN (SELECT id FROM cloud_project WHERE name <> 'default');
DELETE FROM cloud_project WHERE name <> 'default';
DELETE FROM cloud_node WHERE name <> 'n1';
DELETE FROM procrastinate_jobs;
UPDATE cloud_project SET {", ".join(f"limit_{name} = NULL" for name in quota.WORDS)};
"""
WRITES = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"  # another after each transaction that wrote


class Cloud:
    """What a test needs to act on a cloud and to look at it."""

    _left: ClassVar[tuple[str, str]] = ("", "")  # whose node was last reset, and what had been written by then

    def __init__(self, agent: AgentProcess) -> None:
        self.agent = agent
        self.real = agent.driver == "qemu"
        self.ports = free_ports(100) if self.real else range(2200, 2300)

    def begin(self) -> None:
        """Reset what the test before left, unless nobody has written anything since that was reset itself."""
        if self._state() != Cloud._left:
            self.reset()

    def _state(self) -> tuple[str, str]:
        with connection.cursor() as cursor:
            cursor.execute(WRITES)
            return self.agent.url, cursor.fetchone()[0]

    def reset(self) -> None:
        """Back to one node, one image, nothing else: rows here, machines there."""
        self.agent_faults(clear=True)
        for uuid in [m.uuid for m in self.node_says()]:
            self.host().machines.remove(uuid, 2**40)
        for uuid in [v.uuid for v in self.host().volumes.volumes()]:
            self.host().volumes.remove_volume(uuid, 2**40)
        with connection.cursor() as cursor:
            cursor.execute(EMPTY)
        Node.objects.filter(name="n1").update(
            url=self.agent.url, state="up", problem="", cpus=1000, memory_mib=10**7, disk_gib=10**6, claimed_cpus=0,
            claimed_memory_mib=0, claimed_disk_gib=0, last_number=0, last_placed=0, ssh_ports=100,
            first_ssh_port=self.ports.start, cpu_overcommit=1.0, memory_overcommit=1.0,
            facts={"accelerator": "tcg"},
            settings={"cpus": 1000, "memory_mib": 10**7, "disk_gib": 10**6, "shared": True},
        )  # fmt: skip
        _give_content("tiny", real=self.real)
        Cloud._left = self._state()

    @property
    def node(self) -> Node:
        return Node.objects.get(name="n1")

    def host(self) -> Hypervisor:
        return hypervisor(Node(name="n1", url=self.agent.url))

    def node_says(self) -> tuple[Any, ...]:
        return self.host().machines.changes(0, 0).machines

    def agent_faults(self, **order: Any) -> None:
        """Have the fake do something wrong from now on (see `hypervisor/faults.py`)."""
        if self.real:
            return
        remote = self.host()
        assert isinstance(remote, RemoteHypervisor)
        remote.inject(FaultOrder(**order))

    def project(self) -> Project:
        return Project.objects.get(name="default")

    def new_server(self, name: str = "web-1", plan: str = "nano", **fields: Any) -> Server:
        """A server that was asked for, and has not yet been placed."""
        volumes, automount = fields.pop("volumes", ()), fields.pop("automount", False)
        asked = fields.pop("asked", "")
        kind = ServerType.objects.get(name=plan)
        row = Server(
            project=fields.pop("project", self.project()), name=name, server_type=kind, cores=kind.cores,
            memory_mib=kind.memory_mib, disk_gib=kind.disk_gib,
            image=Image.objects.get(project=None, name=fields.pop("image", "tiny")), **fields,
        )  # fmt: skip
        server.create(row, volumes=volumes, automount=automount, node=asked)
        return row

    def running_server(self, name: str = "web-1", **fields: Any) -> Server:
        row = self.new_server(name, **fields)
        self.settle()
        row.refresh_from_db()
        assert row.status == "running", row.problem
        return row

    def settle(self, patience: float = PATIENCE) -> None:
        """Do all that is due, and what becomes due, until everything rests."""
        end = clock.monotonic() + patience
        while waiting := [w for w in _unfinished() if not (self.real and _only_boots(w.row()))]:
            assert clock.monotonic() < end, f"did not come to rest: {[str(w) for w in waiting]}"
            due = [w for w in waiting if w.seconds <= 0]
            for one in due:
                advance(one.flow, one.pk)
            if not due:
                clock.sleep(min(0.05, *(w.seconds for w in waiting)))

    def stopped_server(self, name: str = "web-1", **fields: Any) -> Server:
        row = self.running_server(name, **fields)
        server.ask(row, "stop_server")
        self.settle()
        row.refresh_from_db()
        assert row.status == "off", row.problem
        return row

    def machine(self, row: Server) -> Machine:
        """What the fake's machine has by now: as its guest sees it where it runs, else as it is defined."""
        saved = json.loads(next(self.agent.state_dir.rglob(f"machines/{row.uuid}.json")).read_text())
        return Machine.model_validate(saved["running"] or saved["machine"])

    def saved(self, row: Server) -> dict[str, Any]:
        """What the fake keeps of a machine."""
        found = (json.loads(path.read_text()) for path in self.agent.state_dir.rglob(f"{row.uuid}.json"))
        return next(kept for kept in found if "disks" in kept)  # the other one is the fence's

    def boot(self, row: Server) -> None:
        """Wait until a real guest listens to what it is asked; the fake's always does."""
        end = clock.monotonic() + 120
        while self.real and not self.host().machines.readiness(row.uuid).ready:
            assert clock.monotonic() < end, self.host().machines.readiness(row.uuid)
            clock.sleep(0.1)

    def agent_answers(self, row: Server) -> None:
        """Wait until its guest agent does: SSH may be there before."""
        end = clock.monotonic() + 120
        while self.real and "agent" not in self.host().machines.readiness(row.uuid).by:
            assert clock.monotonic() < end, self.host().machines.readiness(row.uuid)
            clock.sleep(0.1)

    def nothing_left(self) -> None:
        """No server anywhere: no row, no machine, no claim, no port; and no directory and process where it is real."""
        assert not Server.objects.exists()
        assert self.node_says() == ()
        if self.real:
            assert list((self.agent.state_dir / "machines").iterdir()) == []
            assert qemus(self.agent.state_dir) == []
        n = self.node
        assert (n.claimed_cpus, n.claimed_memory_mib, n.claimed_disk_gib) == (0, 0, 0)
        assert not Action.objects.filter(status="running").exists()


def at_once(*calls: Callable[[], object]) -> list[object]:
    """Do these at the same time, each on a connection of its own. Returns what each returned, or raised."""
    start, results = threading.Barrier(len(calls)), list[object](calls)

    def run_one(index: int, call: Callable[[], object]) -> None:
        try:
            start.wait(10)
            results[index] = call()
        except PaddockError as e:
            results[index] = e
        finally:
            connection.close()

    threads = [threading.Thread(target=run_one, args=one) for one in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


@dataclass(frozen=True)
class Waiting:
    """A row that does not rest."""

    flow: Flow[Living]
    pk: int
    seconds: float  # until it is due; negative: it is

    def row(self) -> Living:
        return self.flow.model._default_manager.get(pk=self.pk)

    def __str__(self) -> str:
        row = self.row()
        return f"{self.flow.kind} {self.pk} at {row.step}, waiting for {row.waiting_for or 'its turn'}"


def _unfinished() -> list[Waiting]:
    """In the order in which they were asked for. One question for all kinds: it is put many times in each test."""
    flows = list(Flow.registry.values())
    look = "SELECT {}, id, extract(epoch FROM next_at - now())::float FROM {} WHERE next_at IS NOT NULL"
    each = (look.format(number, flow.model._meta.db_table) for number, flow in enumerate(flows))
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(each) + " ORDER BY 1, 2")
        return [Waiting(flows[number], pk, seconds) for number, pk, seconds in cursor.fetchall()]


def _only_boots(row: Living) -> bool:
    """Whether nothing is asked of a server any more, and only its guest's readiness is waited for."""
    asked = Action.objects.filter(kind="server", row_id=row.pk, status="running").exists()
    boots = row.step == "watch" and not asked
    return boots and isinstance(row, Server) and row.told == row.revision and not row.delete_requested


def qemus(place: Path) -> list[int]:
    """The QEMUs that run in this directory."""
    return [p for p in procs.pids() if str(procs.cwd(p)).startswith(f"{place}/") and "-qmp" in " ".join(procs.argv(p))]


def make_image_ready(name: str = "tiny", *, real: bool = False) -> Image:
    """Give the catalogue's image a content: one that boots, or one that only the fake accepts."""
    _give_content(name, real=real)
    return Image.objects.get(project=None, name=name)


def _give_content(name: str, *, real: bool) -> None:
    manifest = _real_image(name) if real else _fake_image(name)
    Image.objects.filter(project=None, name=name).update(
        state="ready", sha256=manifest.sha256, manifest=manifest.model_dump(mode="json"), next_at=None, step="rest"
    )


def make_image(name: str, kind: str, *roles: Role, **about: Any) -> Image:
    """A ready image besides the catalogue's: a CD, the rescue system, another disk."""
    manifest = _fake_image(name, roles)
    ready = {"state": "ready", "sha256": manifest.sha256, "manifest": manifest.model_dump(mode="json")}
    at_rest = {"type": kind, "step": "rest", "next_at": None}
    owner = about.pop("project", None)
    row, _ = Image.objects.update_or_create(project=owner, name=name, defaults={**ready, **at_rest, **about})
    row.refresh_from_db()
    return row


def _fake_image(name: str, roles: tuple[Role, ...] = (Role.DISK,)) -> ImageManifest:
    manifest = _publish_fake(name, roles)
    if not (settings.STATE.images / manifest.sha256).exists():  # a test before pruned the store
        _publish_fake.cache_clear()
        return _publish_fake(name, roles)
    return manifest


@cache
def _publish_fake(name: str, roles: tuple[Role, ...]) -> ImageManifest:
    files = {role: settings.STATE.uploads / f"content-{role}" for role in roles}
    for role, path in files.items():
        path.write_bytes(hashlib.sha256(f"{name} {role}".encode()).digest() * 64)
    size = GIB if Role.DISK in roles else 0
    return ImageStore(settings.STATE.images).publish(
        files, name=name, disk_size=size, guest_agent=True, cloud_init=True
    )


@cache
def _real_image(name: str) -> ImageManifest:
    built = built_image(name)
    run(["cp", "-a", "--reflink=auto", built.directory, settings.STATE.images / built.manifest.sha256])
    return built.manifest


def in_worker_that_dies(flow: Flow[Any], row_id: int, step: str, moment: str) -> bool:
    """Run the flow in a process of its own that is SIGKILLed at a step: `before` its outcome is written, or `after`.

    Returns whether it came to that point (else it ended by itself, the flow having taken another way).
    """
    connection.close()
    child = os.fork()
    if child == 0:
        _die_at(step, moment)
        end = clock.monotonic() + PATIENCE
        try:
            while (wait := advance(flow, row_id)) is not None and clock.monotonic() < end:
                clock.sleep(wait)  # on a busy host an image is not brought at once, and a worker is fair to others
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _die_at(step: str, moment: str) -> None:
    """Before: what the step did to the world is done, and not written down. After: it is written down."""
    attempt, record = engine._attempt, engine._record

    def die_before(flow: Any, row: Any) -> Any:
        here, outcome = row.step, attempt(flow, row)
        if here == step and (moment == "before" or isinstance(outcome, Gone)):
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome

    def die_after(flow: Any, row: Any, outcome: Any, spent: float) -> Any:
        here, moved = row.step, record(flow, row, outcome, spent)
        if here == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return moved

    engine._attempt, engine._record = die_before, die_after
