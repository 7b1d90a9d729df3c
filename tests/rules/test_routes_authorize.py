"""Every route refuses whom it must. A route that is in no table here fails: write down what it shows to whom."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args
from uuid import uuid4

import pytest
from django.db.models import Q

from paddock.api.x.names import Collection
from paddock.cloud.models import (
    Action,
    Image,
    Node,
    PlacementGroup,
    Pool,
    Project,
    Server,
    ServerType,
    SSHKey,
    Token,
    Volume,
)
from tests.agent.process import AgentProcess
from tests.api.routes import Answer, Door, all_routes
from tests.cloud.harness import Cloud
from tests.rules import v1_routes

PUBLIC = {"GET /x/v1/version", "WS /x/v1/console/{secret}"}  # a console's address is its own secret
SHARED = v1_routes.SHARED | {"GET /x/v1/limits", "GET /x/v1/catalogue", "GET /x/v1/base"}  # the same for every project
PLAN = {"name": "plan-{new}", "cores": 1, "memory_mib": 64, "disk_gib": 1}
OPERATORS: dict[str, tuple[str, Any]] = {  # what an operator asks for, and with which body: it must succeed
    "GET /admin/v1/nodes": ("", None),
    "GET /admin/v1/nodes/{id}": ("node", None),
    "GET /admin/v1/statistics": ("", None),
    "GET /admin/v1/servers/{id}/steps": ("server", None),
    "POST /admin/v1/servers/{id}/steps/{name}": ("server", None),
    "GET /admin/v1/server_types": ("", None),
    "POST /admin/v1/server_types": ("", PLAN),
    "GET /admin/v1/server_types/{id}": ("spare_type", None),
    "PUT /admin/v1/server_types/{id}": ("spare_type", {"description": "changed"}),
    "DELETE /admin/v1/server_types/{id}": ("spare_type", None),
    "GET /admin/v1/images": ("", None),
    "GET /admin/v1/images/{id}": ("image", None),
    "POST /admin/v1/images/{id}/publish": ("spare_image", None),
    "DELETE /admin/v1/images/{id}": ("spare_image", None),
    "POST /admin/v1/images/{id}/look": ("published_image", None),
    "POST /admin/v1/images/{id}/refresh": ("published_image", None),
    "POST /admin/v1/images/prune": ("", {"dry_run": True}),
    "GET /admin/v1/warm_images": ("", None),
    "POST /admin/v1/images/{id}/warm": ("published_image", {"server_type": "nano"}),
    "POST /admin/v1/images/{id}/cool": ("published_image", None),
    "GET /admin/v1/pools": ("", None),
    "PUT /admin/v1/pools": ("", {"image": "tiny", "server_type": "nano", "count": 0}),
    "DELETE /admin/v1/pools/{id}": ("pool", None),
    "GET /admin/v1/projects": ("", None),
    "POST /admin/v1/projects": ("", {"name": "spare-{new}"}),
    "GET /admin/v1/projects/{id}": ("project", None),
    "PUT /admin/v1/projects/{id}": ("spare_project", {"limits": {"servers": 1}}),
    "DELETE /admin/v1/projects/{id}": ("spare_project", None),
    "GET /admin/v1/projects/{id}/tokens": ("project", None),
    "POST /admin/v1/projects/{id}/tokens": ("spare_project", {"description": "of {new}"}),
    "DELETE /admin/v1/projects/{id}/tokens/{token_id}": ("project", None),
    "GET /admin/v1/base": ("", None),
    "PUT /admin/v1/base": ("", {"text": "#cloud-config\npackages: []\n"}),
    "DELETE /admin/v1/base": ("", None),
}
LISTS = {**v1_routes.LISTS, "GET /x/v1/tokens": "token", "GET /x/v1/isos": "iso"}
CREATES: dict[str, list[dict[str, Any]]] = {  # bodies that name things of others: answered like what never was
    **v1_routes.CREATES,
    "POST /x/v1/images": [],
    "POST /x/v1/isos": [],
    "POST /x/v1/tokens": [],
}
OWNED: dict[str, tuple[str, Any]] = {
    **v1_routes.OWNED,
    "GET /x/v1/tokens/{id}": ("token", None),
    "DELETE /x/v1/tokens/{id}": ("token", None),
    "GET /x/v1/servers/{id}/timeline": ("server", None),
    "GET /x/v1/servers/{id}/sizes": ("server", None),
    "GET /x/v1/servers/{id}/console_log": ("server", None),
    "POST /x/v1/servers/{id}/actions/create_image": ("server", {"name": "made-of-it"}),
    "POST /x/v1/servers/{id}/fork": ("server", {"name": "forked-of-it"}),
    "POST /x/v1/servers/{id}/actions/pause": ("server", None),
    "POST /x/v1/servers/{id}/actions/resume": ("server", None),
    "POST /x/v1/servers/{id}/actions/hibernate": ("server", None),
    "POST /x/v1/servers/{id}/actions/wake": ("server", None),
    "GET /x/v1/servers/{id}/files": ("server", None),
    "PUT /x/v1/servers/{id}/files": ("server", None),
    "POST /x/v1/servers/{id}/exec": ("server", {"argv": ["true"]}),
    "WS /x/v1/servers/{id}/console": ("server", None),
    "WS /x/v1/servers/{id}/vnc": ("server", None),
    "POST /x/v1/servers/{id}/keys": ("server", {"keys": ["f1"]}),
    "POST /x/v1/images/{id}/build": ("image", None),
    "GET /x/v1/images/{id}/content": ("image", None),
    "PUT /x/v1/images/{id}/content": ("image", None),
    "GET /x/v1/isos/{id}": ("iso", None),
    "DELETE /x/v1/isos/{id}": ("iso", None),
    "GET /x/v1/isos/{id}/content": ("iso", None),
    "PUT /x/v1/isos/{id}/content": ("iso", None),
}
NAMES = "GET /x/v1/names"
KNOWN = PUBLIC | SHARED | {NAMES} | set(OPERATORS) | set(LISTS) | set(CREATES) | set(OWNED)
GUARDED = sorted(KNOWN - PUBLIC)
INSIDE = {"GET /x/v1/servers/{id}/files"}  # what is in a guest, a token that may only read does not open
WRITES = [r for r in GUARDED if not r.startswith("GET ") or r in INSIDE]
QUERIES = {**v1_routes.QUERIES, "GET /x/v1/servers/{id}/files": "?path=/etc/hostname", NAMES: "?of=servers"}
NEVER = 2**41  # an id that no row ever had


@dataclass
class Theirs:
    """A project with one of everything, and the ids of its things."""

    ids: dict[str, int]
    operator: str
    owner: str
    door: Door

    def ask(self, route: str, token: str | None, id: int | None = None) -> Answer:
        """Ask with a body that would be good, for that id or for this project's thing."""
        kind, body = OWNED.get(route) or OPERATORS.get(route) or ("", None)
        body = body or next(iter(CREATES.get(route, ())), None)
        chosen = id or _shared_id(route) or self.ids.get(kind) or _spare(kind) or self.ids["server"]
        if route in OPERATORS and isinstance(body, dict):
            body = {k: v.format(new=uuid4().hex[:8]) if isinstance(v, str) else v for k, v in body.items()}
        action = self.ids.get(f"{kind}_action", self.ids["action"])
        ids = {"id": chosen, "action_id": action, "token_id": _spare("spare_token") or 0, **v1_routes.LATER_IDS}
        return self.door.knock(route + QUERIES.get(route, ""), token, body, **ids, name="look")


def _shared_id(route: str) -> int | None:
    first = ServerType.objects.first() if "server_types" in route else None
    return None if route not in SHARED else first.pk if first else 1


def _spare(kind: str) -> int | None:
    """A new thing that an operator may well destroy."""
    name = f"spare-{uuid4().hex[:8]}"
    match kind:
        case "spare_token":
            theirs = Project.objects.get(name="theirs")
            return Token.objects.create(project=theirs, digest=name).pk
        case "spare_project":
            return Project.objects.create(name=name).pk
        case "node":
            return Node.objects.get(name="n1").pk
        case "spare_type":
            return ServerType.objects.create(name=name, cores=1, memory_mib=64, disk_gib=1).pk
        case "pool":
            plan = ServerType.objects.create(name=name, cores=1, memory_mib=64, disk_gib=1)
            return Pool.objects.create(image=Image.objects.get(name="tiny"), server_type=plan, count=0).pk
        case "published_image":
            Image.objects.filter(name="debian-13").update(step="rest", state="ready")
            return Image.objects.get(name="debian-13").pk
        case "spare_image":
            return Image.objects.create(name=name, step="rest", next_at=None, state="ready").pk
    return None


def _more(project: Project, image: Image) -> dict[str, int]:
    """More things of the project: a volume, a group, an ISO, and actions of volume and image."""
    volume = Volume.objects.create(project=project, name="their-volume", size_gib=10, step="", next_at=None)
    group = PlacementGroup.objects.create(project=project, name="their-group")
    iso = Image.objects.create(project=project, name="their-iso", type="iso", step="rest", next_at=None, state="ready")
    actions = {
        f"{kind}_action": Action.objects.create(project=project, kind=kind, row_id=id, command="x", status="success").pk
        for kind, id in (("image", image.pk), ("volume", volume.pk))
    }
    return {"volume": volume.pk, "placement_group": group.pk, "iso": iso.pk, **actions}


@pytest.fixture(scope="module")
def theirs(agent: AgentProcess, door: Door) -> Iterator[Theirs]:
    cloud = Cloud(agent)
    cloud.reset()
    project, _ = Project.objects.get_or_create(name="theirs")
    server: Server = cloud.new_server("their-server", project=project)
    cloud.settle()
    image = Image.objects.create(project=project, name="their-image", step="rest", next_at=None)
    token = Token.objects.get(digest=Token.digest_of(Token.issue(project, "")))
    key = SSHKey.objects.create(project=project, name="their-key", public_key="ssh-ed25519 AAAA", fingerprint="00")
    action = door.knock(f"GET /v1/servers/{server.pk}/actions", owner := Token.issue(project, ""))
    ids = {"server": server.pk, "image": image.pk, "ssh_key": key.pk, "token": token.pk, "project": project.pk,
           "action": int(re.findall(r'"id": ?(\d+)', action.text)[0]), **_more(project, image)}  # fmt: skip
    yield Theirs(ids, Token.issue(project, "", operator=True), owner, door)
    Pool.objects.all().delete()
    ServerType.objects.filter(Q(name__startswith="spare-") | Q(name__startswith="plan-")).delete()
    Image.objects.filter(name__startswith="spare-").delete()
    Project.objects.filter(name__startswith="spare-").delete()
    Volume.objects.filter(project=project).delete()
    PlacementGroup.objects.filter(project=project).delete()
    cloud.reset()


@pytest.fixture
def mine(theirs: Theirs) -> Project:
    return Project.objects.get_or_create(name="mine")[0]


def says(answer: Answer, status: int, code: str, text: str) -> bool:
    """Whether an error is that one; a console has only a status and words."""
    return answer.status == status and text in answer.text and (code in answer.text or not answer.text.startswith("{"))


def test_every_route_has_a_case() -> None:
    assert all_routes() == KNOWN


@pytest.mark.parametrize("route", GUARDED)
def test_who_is_refused(route: str, theirs: Theirs, mine: Project) -> None:
    assert says(theirs.ask(route, None), 401, "unauthorized", "token is required")
    assert says(theirs.ask(route, "x" * 64), 401, "unauthorized", "token you have provided is invalid")
    if route in OPERATORS:
        assert says(theirs.ask(route, Token.issue(mine, "")), 403, "forbidden", "operator")
        assert says(theirs.ask(route, theirs.owner), 403, "forbidden", "operator")
        assert theirs.ask(route, theirs.operator).status < 300
    if route in WRITES:
        reader = Token.issue(mine, "", read_only=True, operator=True)
        assert says(theirs.ask(route, reader), 401, "token_readonly", "may only read")
    else:
        assert theirs.ask(route, Token.issue(mine, "", read_only=True, operator=True)).status in (200, 404)


@pytest.mark.parametrize("route", sorted(OWNED))
def test_what_others_own_is_as_if_it_never_was(route: str, theirs: Theirs, mine: Project) -> None:
    kind, _ = OWNED[route]
    token = Token.issue(mine, "")
    real, never = theirs.ask(route, token), theirs.ask(route, token, NEVER)
    assert real.status == never.status == 404
    assert real.text.replace(str(theirs.ids[kind]), "#") == never.text.replace(str(NEVER), "#")
    if route.startswith("GET "):
        assert theirs.ask(route, theirs.owner).status == 200, "its owner must see it"


@pytest.mark.parametrize("route", sorted(LISTS))
def test_lists_hold_only_ones_own(route: str, theirs: Theirs, mine: Project) -> None:
    here = f'"id": {theirs.ids[LISTS[route]]},'
    all_of_them = f"{route}?per_page=50"
    assert here in theirs.door.knock(all_of_them, theirs.owner).text
    assert here not in theirs.door.knock(all_of_them, Token.issue(mine, "")).text
    if LISTS[route] == "action":
        assert here not in theirs.door.knock(f"{route}?id={theirs.ids['action']}", Token.issue(mine, "")).text


@pytest.mark.parametrize("of", sorted(set(get_args(Collection)) - {"server_types"}))
def test_names_are_only_ones_own(of: str, theirs: Theirs, mine: Project) -> None:
    route = f"{NAMES}?of={of}&prefix=their-"
    (name,) = json.loads(theirs.door.knock(route, theirs.owner).text)["names"]
    assert name.startswith("their-")
    assert json.loads(theirs.door.knock(route, Token.issue(mine, "")).text)["names"] == []


@pytest.mark.parametrize(("route", "body"), [(r, b) for r, bodies in CREATES.items() for b in bodies])
def test_what_others_own_can_not_be_named(route: str, body: dict[str, Any], theirs: Theirs, mine: Project) -> None:
    def filled(value: Any, ids: dict[str, int], word: str) -> Any:
        if isinstance(value, list):
            return [filled(v, ids, word) for v in value]
        if not isinstance(value, str):
            return value
        text = value.format(**ids).replace("their-", word)
        return int(text.removeprefix("int:")) if text.startswith("int:") else text

    token = Token.issue(mine, "")
    real = theirs.door.knock(route, token, {k: filled(v, theirs.ids, "their-") for k, v in body.items()})
    never = theirs.door.knock(
        route, token, {k: filled(v, dict.fromkeys(theirs.ids, NEVER), "no-") for k, v in body.items()}
    )
    assert real.status == never.status == 422
    words = [f"'{id}'" for id in (*theirs.ids.values(), NEVER)] + ["'their-", "'no-"]
    for word in words:
        real, never = (Answer(a.status, a.text.replace(word, "'#")) for a in (real, never))
    assert real == never
