"""The questions of `paddock launch` for a person at a terminal, in the order of CLD's: where, image, name, size.

Nothing is asked that was said, or that has only one answer; that one is shown, so that nobody wonders. At their
end stand the answers as a command line.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import typer

from paddock.base.errors import Refused
from paddock.cli import ask, names
from paddock.cli.amounts import gigabytes_of
from paddock.cli.client import Api, Json
from paddock.cli.output import clean, gigabytes, stderr

ANY: Json = {"name": "any"}  # node
# Where other clouds ask for an address and a MAC: said, since there is nothing to choose.
NETWORK = "External IP and MAC: none to give; it is reached through its node, on an SSH port of its own"


@dataclass(frozen=True)
class Wish:
    """What was said of a server; empty is what was not. Memory and disk are in GB."""

    image: str = ""
    name: str = ""
    location: str = ""
    node: str = ""
    type: str = ""
    cpus: int = 0
    memory: float = 0.0
    disk: float = 0.0
    several: bool = False

    @property
    def size(self) -> tuple[int, float, float]:
        """CPU cores, and GB of memory and disk."""
        return self.cpus, self.memory, self.disk


@dataclass(frozen=True)
class _Size:
    """One question about a server's size."""

    title: str
    field: str
    shown: Callable[[float], str]
    parse: Callable[[str], float | None]


def _whole(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdecimal() else None


SIZES = (
    _Size("CPU cores", "cores", lambda cores: f"{cores:g}", _whole),
    _Size("RAM", "memory", gigabytes, gigabytes_of),
    _Size("Disk", "disk", gigabytes, gigabytes_of),
)


def asked(api: Api, wish: Wish) -> Wish:
    """The wish with all that is missing asked for. Raises typer.BadParameter where nobody can be asked."""
    if not ask.at_terminal():
        raise typer.BadParameter("Missing argument 'IMAGE': `paddock image list` shows what there is")
    wish = _placed(api, wish)
    image = ask.menu("Image", api.list("/v1/images", {"sort": "id:asc"}), _image)
    wish = replace(wish, image=str(image["name"] or image["id"]))
    wish = replace(wish, name=wish.name or _name(api, wish))
    wish = _sized(api, wish, float(image.get("disk_size") or 0))
    console = stderr()
    ask.remark(NETWORK)
    console.print(f"your answers:  {command_line(wish)}")
    return wish


def command_line(wish: Wish) -> str:
    """The answers as one would say them without being asked."""
    said = [f"--{field} {shlex.quote(value)}" for field, value in (
        ("name", wish.name), ("location", wish.location), ("node", wish.node), ("type", wish.type),
    ) if value]  # fmt: skip
    return " ".join(["paddock launch", shlex.quote(wish.image), *said])


def _placed(api: Api, wish: Wish) -> Wish:
    """With a place, only if that is a question: for an operator a node, for anybody else a location."""
    if wish.node or wish.location:
        return wish
    if len(nodes := _nodes(api)) > 1:
        chosen = ask.menu("Node", [ANY, *nodes], _node)
        return replace(wish, node="" if chosen is ANY else str(chosen["name"]))
    places = api.list("/v1/locations")
    return replace(wish, location=str(ask.menu("Location", places, _described)["name"])) if len(places) > 1 else wish


def _nodes(api: Api) -> list[Json]:
    """Those that a server can be made on; none for who is no operator, and so can't choose."""
    try:
        return [node for node in api.list("/admin/v1/nodes", {"sort": "name"}) if node["state"] == "up"]
    except Refused:
        return []


def _node(node: Json) -> str:
    if node is ANY:
        return "any  where there is room"
    cpus = max(0, int(node["cpus"] * node["cpu_overcommit"]) - node["claimed_cpus"])
    memory = max(0, int(node["memory_mib"] * node["memory_overcommit"]) - node["claimed_memory_mib"])
    disk = max(0, node["disk_gib"] - node["claimed_disk_gib"])
    free = f"{cpus} CPUs, {gigabytes(round(memory / 1024, 1))} memory and {gigabytes(disk)} disk free"
    return clean(f"{node['name']}  {free}")


def _name(api: Api, wish: Wish) -> str:
    proposal = names.fresh(wish.image, ())
    while True:
        name = str(typer.prompt("Name (a-z 0-9 - .)", default=proposal, err=True)).strip()
        if not names.VALID.fullmatch(name):
            ask.remark("a name has a-z, 0-9, - and . only, such as web-1 or db.example.com")
        elif not wish.several and api.list("/v1/servers", {"name": name}):
            ask.remark(f"there is already a server {name}")
        else:
            return name


def _sized(api: Api, wish: Wish, least: float) -> Wish:
    """With a server type, found by its cores, memory and disk; unsized where none fits, which launching explains."""
    if wish.type:
        return wish
    said = {"cores": wish.cpus, "memory": wish.memory, "disk": wish.disk}
    types = [
        t for t in sorted(api.list("/v1/server_types"), key=lambda t: int(t["id"]))
        if t["disk"] >= least and all(t[field] >= amount for field, amount in said.items())
    ]  # fmt: skip
    if not types:
        return wish
    for size in SIZES:
        if not said[size.field]:
            amount = _amount(size, types)
            types = [t for t in types if t[size.field] == amount]
    chosen = ask.menu("Server type", types, _type) if len(types) > 1 and not any(said.values()) else types[0]
    return replace(wish, type=str(chosen["name"]), cpus=0, memory=0.0, disk=0.0)


def _amount(size: _Size, types: Sequence[Json]) -> float:
    """One of the amounts that there are; that of the first type is the default."""
    choices = sorted({float(t[size.field]) for t in types})
    listed = ", ".join(size.shown(choice) for choice in choices)
    if len(choices) == 1:
        stderr().print(f"{size.title}: {listed}")
        return choices[0]
    while True:
        default = size.shown(float(types[0][size.field]))
        amount = size.parse(str(typer.prompt(f"{size.title} ({listed})", default=default, err=True)).strip())
        if amount in choices:
            return amount
        ask.remark(f"there are: {listed}")


def _image(image: Json) -> str:
    return clean(f"{image['name'] or image['id']}  {image.get('description') or ''}".rstrip())


def _described(place: Json) -> str:
    return clean(f"{place['name']}  {place.get('description') or ''}".rstrip())


def _type(type: Json) -> str:
    disk = gigabytes(type["disk"])
    return clean(f"{type['name']}  {type['cores']} CPU, {gigabytes(type['memory'])} memory, {disk} disk")
