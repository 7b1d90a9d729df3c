"""Warm starts as the control plane sees them: who begins from what, what the timeline says, and images made warm."""

import pytest

from paddock.base.errors import Conflict
from paddock.cloud.flows import image_warm, server_wishes
from paddock.cloud.flows import server as flow
from paddock.cloud.flows.engine import Flow, advance
from paddock.cloud.models import Action, Event, Image, Server, ServerType
from paddock.cloud.nodes import hypervisor
from tests.cloud.harness import Cloud, make_image

MANY = 50


def began(server: Server) -> tuple[str, str]:
    server.refresh_from_db()
    return server.began, server.not_warm


def warmed(cloud: Cloud, image: str = "tiny", plan: str = "nano") -> Action:
    row, project = Image.objects.get(project=None, name=image), cloud.project()
    action = image_warm.ask(row, ServerType.objects.get(name=plan), [cloud.node], "", project.pk)
    cloud.settle()
    action.refresh_from_db()
    return action


@pytest.fixture(autouse=True)
def _cold(cloud: Cloud) -> None:
    """What earlier tests left on the node."""
    for found in cloud.host().warm.warm_images():
        cloud.host().warm.remove_warm(found.id)


def test_it_begins_from_what_was_made_for_it(cloud: Cloud) -> None:
    assert warmed(cloud).status == "success"
    server = cloud.running_server()
    assert began(server) == ("warm", "")
    step = Event.objects.get(kind="server", row_id=server.pk, step="start")
    assert step.detail == "from a warm image"
    [warm] = cloud.host().warm.warm_images()
    assert (warm.scope, warm.cpus, warm.memory_mib) == ("public", server.cores, server.memory_mib)


def test_it_says_why_it_booted(cloud: Cloud) -> None:
    first = cloud.running_server("web-1")
    assert began(first)[0] == "cold"
    assert began(first)[1].startswith("there is no warm image of tiny with")
    assert Event.objects.get(kind="server", row_id=first.pk, step="start").detail == f"it boots: {first.not_warm}"
    asked_not = cloud.running_server("web-2", warm=False)
    assert began(asked_not) == ("cold", "it was not asked for")


def test_a_project_s_own_image_is_its_alone(cloud: Cloud) -> None:
    image = make_image("mine", "snapshot", project=cloud.project())
    server = cloud.new_server("web-1")
    Server.objects.filter(pk=server.pk).update(image=image)
    cloud.settle()
    server.refresh_from_db()
    assert server.machine().warm == f"project-{cloud.project().pk}"


def test_rebuilt_it_begins_anew(cloud: Cloud) -> None:
    server = cloud.running_server()
    assert began(server)[0] == "cold"
    warmed(cloud)
    server_wishes.rebuild(server, server.image, None, "", "")
    cloud.settle()
    assert began(server) == ("warm", "")


def test_a_second_start_is_an_ordinary_one(cloud: Cloud) -> None:
    warmed(cloud)
    server = cloud.running_server()
    for command in ("stop_server", "start_server"):
        flow.ask(server, command)
        cloud.settle()
    assert began(server) == ("warm", "")  # how its disk began
    assert not cloud.host().machines.state(server.uuid).began.warm
    starts = Event.objects.filter(kind="server", row_id=server.pk, step="start").order_by("id")
    assert [event.detail for event in starts] == ["from a warm image", ""]


def test_what_can_not_be_made_warm(cloud: Cloud) -> None:
    iso = make_image("cd", "iso")
    with pytest.raises(Conflict, match="is no image that servers start from"):
        image_warm.ask(iso, ServerType.objects.get(name="nano"), [cloud.node], "", cloud.project().pk)
    absent = Image.objects.get(project=None, name="debian-13")
    with pytest.raises(Conflict, match="build it first"):
        image_warm.ask(absent, ServerType.objects.get(name="nano"), [cloud.node], "", cloud.project().pk)


def test_why_it_failed_is_said(cloud: Cloud) -> None:
    ServerType.objects.filter(name="nano").update(huge_pages=True)
    try:
        action = warmed(cloud)
    finally:
        ServerType.objects.filter(name="nano").update(huge_pages=False)
    assert (action.status, action.error_code) == ("error", "refused")
    assert "its memory is in huge pages" in action.error_message
    assert Image.objects.get(project=None, name="tiny").state == "ready"


def test_cool(cloud: Cloud) -> None:
    warmed(cloud)
    server = cloud.running_server()
    action = image_warm.ask_cool(server.image, "", cloud.project().pk)
    cloud.settle()
    action.refresh_from_db()
    assert action.status == "success"
    assert cloud.host().warm.warm_images() == ()
    assert hypervisor(cloud.node).machines.state(server.uuid).began.warm


def test_fifty_while_one_is_made_anew(cloud: Cloud) -> None:
    """None waits for it, and each says which it was and why."""
    warmed(cloud)
    [old] = cloud.host().warm.warm_images()
    cloud.host().warm.remove_warm(old.id)
    cloud.agent_faults(copy_seconds=600)
    row, plan = Image.objects.get(project=None, name="tiny"), ServerType.objects.get(name="nano")
    image_warm.ask(row, plan, [cloud.node], "", cloud.project().pk)
    go_on("image", row.pk)
    servers = [cloud.new_server(f"web-{n}") for n in range(MANY)]
    early, late = servers[: MANY // 2], servers[MANY // 2 :]
    for server in early:
        go_on("server", server.pk)
    assert {began(server) for server in early} == {("cold", early[0].not_warm)}
    assert early[0].not_warm.endswith("MiB yet: it is being made")
    cloud.agent_faults(copy_seconds=0)  # it is there
    cloud.settle()
    assert {began(server) for server in late} == {("warm", "")}
    assert {server.status for server in Server.objects.all()} == {"running"}
    assert [warm.machines for warm in cloud.host().warm.warm_images()] == [len(late)]


def go_on(kind: str, pk: int) -> None:
    """As far as it goes without waiting."""
    while advance(Flow.registry[kind], pk) == 0:
        pass


def test_a_type_that_can_grow_is_made_warm_as_its_servers_are(cloud: Cloud) -> None:
    """From 256 MiB on, memory can be added too: a warm image depends on how much."""
    assert warmed(cloud, plan="small").status == "success"
    server = cloud.running_server(plan="small")
    assert began(server) == ("warm", "")
    assert server.machine().max_memory_mib > server.memory_mib
