"""Every step four ways, on the fake and on QEMU: its worker is killed, its node's agent is killed, it runs twice,
delete arrives right after it."""

import signal
import threading
from collections.abc import Callable

import pytest
from django.db.models import F
from django.db.models.functions import Now

from paddock.base import clock
from paddock.cloud.flows import engine, server
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.flows import volume as volumes
from paddock.cloud.flows.engine import Flow, advance
from paddock.cloud.models import Action, Event, Server, ServerType, Volume
from paddock.machine.image import Role
from tests.agent.process import AgentProcess
from tests.cloud.harness import Cloud, in_worker_that_dies, make_image

FLOW = Flow.registry["server"]
LIVES = {
    "create_server": ["place", "image", "clone", "cloud_init", "start", "watch"],
    "start_server": ["cloud_init", "start", "watch"],
    "shutdown_server": ["shutdown", "await_off"],
    "stop_server": ["power_off"],
    "reboot_server": ["reboot", "watch"],
    "reset_server": ["reset", "watch"],
    "delete_server": ["destroy", "forget"],
}
CHANGES = {
    "create_server with a volume": ["volumes"],
    "rebuild_server": ["rebuild", "image", "clone"],
    "change_server_type": ["retype"],
    "change_server_type while it runs": ["grow"],
    "pause_server": ["pause"],
    "resume_server": ["resume"],
    "hibernate_server": ["hibernate"],
    "wake_server": ["cloud_init", "start"],
    "reset_password": ["password"],
    "reset_password offline": ["disk_password"],
    "enable_rescue": ["rescue"],
    "reboot_server into rescue": ["come_down", "cloud_init", "start"],
    "reset_server into rescue": ["reset"],
    "attach_iso": ["insert_iso"],
    "detach_iso": ["eject_iso"],
    "create_image": ["snapshot", "await_image"],
    "create_image cleaned": ["snapshot", "await_image"],
}
POINTS = [(command, step) for command, steps in LIVES.items() for step in steps]
POINTS_OF_CHANGES = [(command, step) for command, steps in CHANGES.items() for step in steps]
ENDS = {
    "stop_server": "off",
    "shutdown_server": "off",
    "change_server_type": "off",
    "pause_server": "paused",
    "hibernate_server": "hibernated",
    "reset_password offline": "off",
}
BOOTED = ("shutdown_server",)  # a guest that boots does not hear it
EFFECTS = [
    ("create_server", "clone"),
    ("create_server", "cloud_init"),
    ("create_server", "start"),
    ("stop_server", "power_off"),
    ("delete_server", "destroy"),
]

REPEATED = [(command, "watch") for command in LIVES if command != "create_server"]  # not again on QEMU
MOMENTS = [
    (*point, "at its end") for point in POINTS if point not in REPEATED
]  # a step's beginning is the end of the one before
MOMENTS += [(command, steps[0], "before") for command, steps in LIVES.items()]
MOMENTS += [(*point, f"after {ms} ms") for point in EFFECTS for ms in (5, 50)]

on_qemu = pytest.param("qemu", marks=[pytest.mark.guest, pytest.mark.slow])
BASIC = ("create_server", "delete_server")
LATER = [pytest.mark.slow]  # each is fast; all of them together are too much for `make check`


def where(points: list[tuple[str, str]], on_qemu_too: list[tuple[str, str]], later: bool) -> pytest.MarkDecorator:
    """These steps on the fake, and some of them on QEMU too. In `make check` are those of every server's beginning and
    end, and unless `later`, those of changes."""
    now = {point for point in points if point[0] in BASIC or (point in POINTS_OF_CHANGES and not later)}
    return pytest.mark.parametrize(
        ("command", "step", "agent"),
        [pytest.param(*point, "fake", marks=[] if point in now else LATER) for point in points]
        + [pytest.param(*point, "qemu", marks=on_qemu.marks) for point in points if point in on_qemu_too],
        indirect=["agent"],
    )


def begin(cloud: Cloud, command: str) -> Server:
    """A server of which this was just asked, and nothing done yet."""
    if command in CHANGES:
        return begin_change(cloud, command)
    if command == "create_server":
        return cloud.new_server()
    row = cloud.running_server()
    if command == "start_server":
        server.ask(row, "stop_server")
        cloud.settle()
    if command in BOOTED:
        cloud.boot(row)
    if command == "delete_server":
        server.delete(row)
    else:
        server.ask(row, command)
    return row


def begin_change(cloud: Cloud, command: str) -> Server:
    """A server of which this change was just asked, and nothing done yet."""
    if command == "create_server with a volume":
        return cloud.new_server(volumes=[a_volume(cloud)])
    off = command in ("change_server_type", "reset_password offline")
    row = cloud.stopped_server() if off else cloud.running_server(plan="micro")
    plan = ServerType.objects.get(name="small")
    match command:
        case "rebuild_server":
            wishes.rebuild(row, make_image("other", "system", Role.DISK, project=row.project), None, "", "")
        case "change_server_type":
            wishes.change_type(row, plan, upgrade_disk=True, live=False, correlation_id="")
        case "change_server_type while it runs":
            wishes.change_type(row, plan, upgrade_disk=False, live=True, correlation_id="")
        case "pause_server" | "resume_server":
            wishes.pause(row, "")
        case "hibernate_server" | "wake_server":
            wishes.hibernate(row, "")
        case "reset_password":
            wishes.reset_password(row, "$6$salt$hash", "")
        case "reset_password offline":
            make_image("rescue", "rescue", Role.KERNEL, Role.INITRD)
            wishes.reset_password(row, "$6$salt$hash", "", offline=True)
        case "attach_iso" | "detach_iso":
            wishes.attach_iso(row, make_image("cd", "iso", Role.ISO), "")
        case "create_image":
            wishes.create_image(row, "a snapshot", {}, "")
        case "create_image cleaned":
            make_image("rescue", "rescue", Role.KERNEL, Role.INITRD)
            wishes.create_image(row, "a template", {}, "", wishes.Template("base"))
        case _:
            make_image("rescue", "rescue", Role.KERNEL, Role.INITRD)
            wishes.enable_rescue(row, [], "", "")
    ask_second(cloud, row, command)
    return row


def ask_second(cloud: Cloud, row: Server, command: str) -> None:
    """What can be asked only after something else was done."""
    if command in ("detach_iso", "resume_server", "wake_server") or command.endswith("into rescue"):
        cloud.settle()
    if command == "detach_iso":
        wishes.detach_iso(row, "")
    if command == "resume_server":
        wishes.resume(row, "")
    if command == "wake_server":
        wishes.wake(row, "")
    if command.endswith("into rescue"):
        server.ask(row, command.split()[0])


def a_volume(cloud: Cloud) -> Volume:
    row = Volume(project=cloud.project(), name="data", size_gib=10)
    volumes.create(row, None, False)
    cloud.settle()
    return row


def ended_as_asked(cloud: Cloud, row: Server, command: str) -> None:
    action = Action.objects.filter(row_id=row.pk, kind="server", command=command.split()[0]).latest("id")
    assert action.status == "success", action.error_message
    if command == "delete_server":
        return cloud.nothing_left()
    row.refresh_from_db()
    assert row.status == ENDS.get(command, "running")
    assert [m.phase for m in cloud.node_says()] == [row.status]
    assert cloud.node.claimed_cpus == row.cores
    server.delete(row)
    cloud.settle()
    remove_volumes(cloud)
    return cloud.nothing_left()


def remove_volumes(cloud: Cloud) -> None:
    """They outlive their server; nothing else does."""
    for row in Volume.objects.all():
        assert row.server is None
        volumes.delete(row)
    cloud.settle()


@where(POINTS + POINTS_OF_CHANGES, [point for point in POINTS if point not in REPEATED], later=False)
def test_worker_killed_before_it_says_so(cloud: Cloud, command: str, step: str) -> None:
    worker_killed(cloud, command, step, "before")


@where(POINTS + POINTS_OF_CHANGES, [point for point in POINTS if point not in REPEATED], later=True)
def test_worker_killed_after_it_said_so(cloud: Cloud, command: str, step: str) -> None:
    worker_killed(cloud, command, step, "after")


def worker_killed(cloud: Cloud, command: str, step: str, moment: str) -> None:
    row = begin(cloud, command)
    assert in_worker_that_dies(FLOW, row.pk, step, moment), "the flow never came to this step"
    cloud.settle()
    ended_as_asked(cloud, row, command)


@where(POINTS + POINTS_OF_CHANGES, EFFECTS, later=False)
def test_step_runs_twice(cloud: Cloud, command: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = begin(cloud, command)
    ran = []
    attempt = engine._attempt

    def twice(flow: Flow, row: Server) -> object:  # type: ignore[type-arg]
        first = attempt(flow, row)
        if row.step != step or row.step == "forget":
            return first
        ran.append(step)
        return attempt(flow, row)

    monkeypatch.setattr(engine, "_attempt", twice)
    cloud.settle()
    monkeypatch.undo()
    assert ran or step == "forget"
    ended_as_asked(cloud, row, command)


@where([p for p in POINTS + POINTS_OF_CHANGES if p[0] != "delete_server"], EFFECTS, later=True)
def test_delete_arrives(cloud: Cloud, command: str, step: str) -> None:
    row = begin(cloud, command)
    assert in_worker_that_dies(FLOW, row.pk, step, "after")
    server.delete(row)
    cloud.settle()
    remove_volumes(cloud)
    cloud.nothing_left()
    mine = Action.objects.filter(row_id=row.pk, kind="server")
    assert mine.get(command="delete_server").status == "success"
    assert mine.filter(command=command.split()[0]).latest("id").status in ("success", "error")


class AgentKiller:
    """Kills the node's agent once, at a moment of a step, and has it started again a little later."""

    def __init__(self, agent: AgentProcess, step: str, moment: str) -> None:
        self.agent, self.step, self.moment = agent, step, moment
        self.starter: threading.Thread | None = None

    def around(self, attempt: Callable[..., object]) -> Callable[..., object]:
        """The engine's attempt of a step, with the killing."""

        def attempted(flow: Flow, row: Server) -> object:  # type: ignore[type-arg]
            if self.starter or row.step != self.step:
                return attempt(flow, row)
            if self.moment == "before":
                self.kill()
            if self.moment.startswith("after"):
                killer = threading.Timer(float(self.moment.split()[1]) / 1000, self.kill)
                killer.start()
                outcome = attempt(flow, row)
                killer.join()
                return outcome
            outcome = attempt(flow, row)
            if self.moment == "at its end":
                self.kill()
            return outcome

        return attempted

    def kill(self) -> None:
        self.agent.stop(signal.SIGKILL)
        self.starter = threading.Thread(target=self._start_again)
        self.starter.start()

    def _start_again(self) -> None:
        clock.sleep(0.2)
        self.agent.start()


@pytest.mark.parametrize("agent", [on_qemu], indirect=True)
@pytest.mark.parametrize(("command", "step", "moment"), MOMENTS)
def test_agent_killed(
    cloud: Cloud, agent: AgentProcess, command: str, step: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = begin(cloud, command)
    killer = AgentKiller(agent, step, moment)
    monkeypatch.setattr(engine, "_attempt", killer.around(engine._attempt))
    cloud.settle()
    assert killer.starter, "the flow never came to this step"
    killer.starter.join()
    monkeypatch.undo()
    ended_as_asked(cloud, row, command)


def test_every_step_is_on_some_way() -> None:
    walked = {step for steps in [*LIVES.values(), *CHANGES.values()] for step in steps}
    elsewhere = {"rest", "look", "adapt", "drop_snapshot"}  # what nobody asks for: see test_server_changes.py
    elsewhere |= {"fork", "memory", "part"}  # of several servers at once: see test_fork.py
    assert walked | elsewhere == set(FLOW.steps())


def test_paused_worker_is_refused(cloud: Cloud) -> None:
    """A worker that went on after another took the row writes nothing."""
    row = cloud.new_server()
    stale = engine._take(FLOW, row.pk)
    advance(FLOW, row.pk)
    with pytest.raises(engine.LeaseLost):
        engine._enter(FLOW, stale, "place", "note", 0.0, "")
    row.refresh_from_db()
    assert row.status == "running"
    cloud.settle()


def test_wake_during_a_step_is_not_lost(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody asks while the last step runs: the worker sees it before it lets go."""
    row = cloud.running_server()
    rest = server.ServerFlow.rest
    asked: list[Action] = []

    def slow_rest(self: server.ServerFlow, server_row: Server) -> object:
        outcome = rest(self, server_row)
        if not asked:
            asked.append(server.ask(Server.objects.get(pk=row.pk), "stop_server"))
        return outcome

    slow_rest.info, slow_rest.__name__ = rest.info, "rest"  # type: ignore[attr-defined]
    monkeypatch.setattr(server.ServerFlow, "rest", slow_rest)
    Server.objects.filter(pk=row.pk).update(next_at=Now(), wakes=F("wakes") + 1)
    advance(FLOW, row.pk)
    row.refresh_from_db()
    assert row.status == "off"


def test_timeline_tells_every_step(cloud: Cloud) -> None:
    row = cloud.running_server()
    told = list(Event.objects.filter(row_id=row.pk, outcome="done").order_by("id").values_list("step", flat=True))
    assert told == LIVES["create_server"]
