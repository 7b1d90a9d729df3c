"""Lists: pages, order and filters; the number of queries, and how long one takes."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from paddock.cloud.models import Action, Event, Image, Node, PlacementGroup, Server, ServerType, SSHKey, Volume
from tests.agent.process import AgentProcess
from tests.api.caller import Caller
from tests.cloud.harness import Cloud

MANY = 10_000
MOST_QUERIES = 10  # token, count, page, images, nodes, server types, volumes, ISOs, placement groups, who is in them


def servers(cloud: Cloud, count: int) -> None:
    plan, image = ServerType.objects.get(name="nano"), Image.objects.get(project=None, name="tiny")
    made = [
        Server(
            project=cloud.project(), name=f"s{n:05}", server_type=plan, image=image, node=cloud.node, number=n,
            ssh_port=2200 + n, cores=1, memory_mib=128, disk_gib=2, status="running" if n % 2 else "off", step="rest",
            next_at=None, group="odd" if n % 2 else "", labels={"parity": "odd"} if n % 2 else {"env": f"e{n % 3}"},
        )
        for n in range(count)
    ]  # fmt: skip
    Server.objects.bulk_create(made)


def crowd(cloud: Cloud) -> None:
    """Give servers all that is shown of one: an ISO, a placement group, and a volume."""
    iso = Image.objects.create(project=cloud.project(), name="cd", type="iso", step="rest", next_at=None)
    groups = [PlacementGroup.objects.create(project=cloud.project(), name=f"g{n}") for n in range(10)]
    for n, server in enumerate(Server.objects.order_by("id")):
        Server.objects.filter(pk=server.pk).update(iso=iso, placement_group=groups[n % 10])
        Volume.objects.create(
            project=cloud.project(), name=f"v{n}", size_gib=10, server=server, node=cloud.node, next_at=None
        )


def multiply(count: int) -> None:
    """As many more servers like the last one: by SQL, since ten thousand objects take their time."""
    own = {"id": "nextval('cloud_server_id_seq')", "uuid": "gen_random_uuid()", "name": "'m' || n",
           "number": "10000 + n", "ssh_port": "10000 + n", "placement_group_id": "NULL"}  # fmt: skip
    columns = [str(field.column) for field in Server._meta.concrete_fields]
    source = ", ".join(own.get(c, f'"{c}"') for c in columns)
    into = ", ".join(f'"{c}"' for c in columns)
    last = "(SELECT * FROM cloud_server ORDER BY id DESC LIMIT 1) AS last"
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO cloud_server ({into}) SELECT {source} FROM {last}, generate_series(1, %s) AS n", [count]
        )
        cursor.execute("ANALYZE cloud_server")


@pytest.fixture(scope="module")
def ask(agent: AgentProcess) -> Iterator[Caller]:
    """A project of twelve servers."""
    cloud = Cloud(agent)
    cloud.reset()
    servers(cloud, 12)
    yield Caller()
    cloud.reset()


def names(answer: dict[str, Any]) -> list[int]:
    return [int(s["name"][1:]) for s in answer["servers"]]


def test_pages(ask: Caller) -> None:
    first = ask.ok("GET", "/v1/servers?per_page=5")
    assert names(first) == [0, 1, 2, 3, 4]
    assert first["meta"]["pagination"] == {
        "page": 1, "per_page": 5, "previous_page": None, "next_page": 2, "last_page": 3, "total_entries": 12,
    }  # fmt: skip
    last = ask.ok("GET", "/v1/servers?per_page=5&page=3")
    assert names(last) == [10, 11]
    assert (last["meta"]["pagination"]["previous_page"], last["meta"]["pagination"]["next_page"]) == (2, None)
    beyond = ask.ok("GET", "/v1/servers?page=9")
    assert (beyond["servers"], beyond["meta"]["pagination"]["next_page"]) == ([], None)
    assert ask.ok("GET", "/v1/servers?per_page=500")["meta"]["pagination"]["per_page"] == 50


@pytest.mark.parametrize(("query", "found"), [
    ("name=s00003", [3]), ("name=nobody", []), ("status=off&per_page=2", [0, 2]),
    ("status=off&status=running&page=5", []), ("x_group=odd", [1, 3, 5, 7, 9, 11]),
    ("sort=name:desc&per_page=2", [11, 10]), ("sort=id:asc&per_page=1", [0]),
    ("label_selector=parity", [1, 3, 5, 7, 9, 11]), ("label_selector=!parity&per_page=2", [0, 2]),
    ("label_selector=parity%3Dodd", [1, 3, 5, 7, 9, 11]), ("label_selector=env==e1", [4, 10]),
    ("label_selector=env,env!=e1", [0, 2, 6, 8]), ("label_selector=env in (e0, e1)", [0, 4, 6, 10]),
    ("label_selector=env notin (e0,e1),env", [2, 8]), ("label_selector=env=e1,parity", []), ("unknown=1&page=9", []),
])  # fmt: skip
def test_filters(query: str, found: list[int], ask: Caller) -> None:
    assert names(ask.ok("GET", f"/v1/servers?{query}")) == found


@pytest.mark.parametrize(("query", "found"), [
    ("status=running", {"running": "running", "paused": "running"}),
    ("status=off", {"off": "off", "hibernated": "off"}), ("x_status=paused", {"paused": "running"}),
    ("x_status=hibernated&x_status=off", {"hibernated": "off", "off": "off"}),
    ("status=off&x_status=paused", {}),
])  # fmt: skip
def test_servers_that_stand_still_are_shown_and_found_as_clients_know_them(
    query: str, found: dict[str, str], ask: Caller
) -> None:
    """In words that strict clients take, and in ours beside them."""
    chosen = list(Server.objects.order_by("id")[:4])
    before = {server.pk: server.status for server in chosen}
    try:
        for server, status in zip(chosen, ("running", "off", "paused", "hibernated"), strict=True):
            Server.objects.filter(pk=server.pk).update(status=status)
        servers = ask.ok("GET", f"/v1/servers?{query}")["servers"]
    finally:
        for pk, status in before.items():
            Server.objects.filter(pk=pk).update(status=status)
    assert {s["x_status"]: s["status"] for s in servers if s["id"] in before} == found


def test_our_own_states_are_no_status(ask: Caller) -> None:
    for word in ("paused", "hibernated"):
        ask.refused("GET", f"/v1/servers?status={word}", None, 422, "invalid_input")


@pytest.mark.parametrize(("path", "count"), [
    ("/v1/images?name=tiny&architecture=x86", 1), ("/v1/images?architecture=arm", 0), ("/v1/images?type=backup", 0),
    ("/v1/images?type=system&type=snapshot&status=available&name=tiny", 1), ("/v1/images?bound_to=4", 0),
    ("/v1/images?name=tiny&include_deprecated=true&label_selector=!a", 1), ("/v1/server_types?name=nano", 1),
    ("/v1/server_types?label_selector=a", 5), ("/v1/locations?name=local", 1), ("/v1/locations?name=x", 0),
    ("/v1/datacenters?name=local-dc1", 1), ("/v1/datacenters?name=x&page=2", 0), ("/v1/ssh_keys?fingerprint=0", 0),
    ("/v1/actions?name=x&label_selector=a", 0), ("/v1/isos?architecture=x86&include_architecture_wildcard=true", 0),
    ("/v1/volumes?status=available&status=creating", 0), ("/v1/placement_groups?type=spread", 0),
    ("/v1/images?status=available&name=tiny", 1), ("/v1/images?status=creating", 0),
    ("/v1/locations?sort=id:desc&sort=name", 1), ("/v1/networks?name=x&label_selector=a!=b", 0),
    ("/v1/firewalls?sort=created:desc", 0), ("/v1/storage_boxes?per_page=50", 0), ("/v1/zones", 0),
])  # fmt: skip
def test_other_lists(path: str, count: int, ask: Caller) -> None:
    answer = ask.ok("GET", path)
    listed = answer[path.split("?")[0].rsplit("/", 1)[1]]
    assert len(listed) == answer["meta"]["pagination"]["total_entries"] == count


@pytest.mark.parametrize("state", ["absent", "building", "ready"])
def test_an_image_of_the_catalogue_is_available_before_it_is_built(state: str, ask: Caller, cloud: Cloud) -> None:
    own = Image.objects.create(project=cloud.project(), name="own", type="snapshot", state="building")
    Image.objects.filter(project=None, name="tiny").update(state=state)
    assert [i["name"] for i in ask.ok("GET", "/v1/images?status=available&name=tiny")["images"]] == ["tiny"]
    assert ask.ok("GET", "/v1/images?name=tiny")["images"][0]["status"] == "available"
    assert [i["id"] for i in ask.ok("GET", "/v1/images?status=creating")["images"]] == [own.pk]


def test_datacenters_say_the_same_everywhere(ask: Caller) -> None:
    listed = ask.ok("GET", "/v1/datacenters")["datacenters"][0]
    assert len(listed["server_types"]["available"]) == ServerType.objects.count()
    for server in ask.ok("GET", "/v1/servers")["servers"]:
        assert server["datacenter"] == listed
        assert server["location"] == listed["location"]


def test_a_page_among_ten_thousand(cloud: Cloud) -> None:
    ask = Caller()
    servers(cloud, 60)
    crowd(cloud)
    ask.ok("GET", "/v1/servers")  # notes the token's use
    with CaptureQueriesContext(connection) as few:
        ask.ok("GET", "/v1/servers?per_page=50")
    Node.objects.create(name="n2", url="unix:///nowhere")
    multiply(MANY)
    with CaptureQueriesContext(connection) as many:
        assert len(ask.ok("GET", "/v1/servers?per_page=50")["servers"]) == 50
    assert len(few) == len(many) == MOST_QUERIES, [q["sql"][:100] for q in many.captured_queries]


@pytest.mark.parametrize("path", ["/v1/volumes", "/v1/placement_groups", "/v1/images?type=snapshot", "/v1/isos",
                                  "/v1/actions", "/v1/volumes/actions", "/v1/ssh_keys", "/v1/servers"])  # fmt: skip
def test_no_query_per_row(path: str, cloud: Cloud) -> None:
    ask, counts = Caller(), []
    ask.ok("GET", path)  # notes the token's use
    for name in ("a", "b"):
        _more_of_everything(cloud, name)
        with CaptureQueriesContext(connection) as queries:
            listed = ask.ok("GET", path)
        counts.append((len(queries), listed["meta"]["pagination"]["total_entries"]))
    assert counts[0][0] == counts[1][0], counts
    assert counts[0][1] * 2 == counts[1][1], counts


def _more_of_everything(cloud: Cloud, name: str) -> None:
    """Four more of each, all that is shown of one included."""
    project, image = cloud.project(), Image.objects.get(project=None, name="tiny")
    group = PlacementGroup.objects.create(project=project, name=name)
    common = {"project": project, "step": "rest", "next_at": None}
    for n in range(4):
        iso = Image.objects.create(name=f"{name}{n}", type="iso", **common)
        Image.objects.create(type="snapshot", **common)
        server = Server.objects.create(
            name=f"{name}{n}", server_type=ServerType.objects.get(name="nano"), image=image, iso=iso, cores=1,
            memory_mib=1, disk_gib=1, placement_group=group, node=cloud.node, **common,
        )  # fmt: skip
        volume = Volume.objects.create(name=f"{name}{n}", size_gib=10, server=server, node=cloud.node, **common)
        action = Action.objects.create(project=project, kind="volume", row_id=volume.pk, command="x")
        Event.objects.create(kind="volume", row_id=volume.pk, action_id=action.pk, step="x", outcome="done")
        SSHKey.objects.create(project=project, name=f"{name}{n}", public_key="x", fingerprint=f"{name}{n}")
        if n < 3:
            PlacementGroup.objects.create(project=project, name=f"{name}{n}")
