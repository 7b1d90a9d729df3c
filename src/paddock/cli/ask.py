"""The questions of `paddock launch` for a person at a terminal who said nothing: image, name and type, from menus."""

import sys
from collections.abc import Callable, Sequence

import typer

from paddock.cli import names
from paddock.cli.client import Api, Json
from paddock.cli.output import gigabytes, stderr


def at_terminal() -> bool:
    """Whether there is a person to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def missing(api: Api, image: str, name: str, type: str) -> tuple[str, str, str]:
    """Ask for each that is empty. Raises typer.BadParameter where nobody can be asked."""
    if not at_terminal():
        raise typer.BadParameter("Missing argument 'IMAGE': `paddock image list` shows what there is")
    image = image or str(menu("Image", api.list("/v1/images"), _image))
    name = name or _name(api, names.fresh(image, ()))
    types = sorted(api.list("/v1/server_types"), key=lambda t: int(t["id"]))
    type = type or str(menu("Server type", types, _type))
    return image, name, type


def menu(title: str, things: Sequence[Json], shown: Callable[[Json], str]) -> str:
    """Let one be chosen by number or name; the first is the default."""
    console = stderr()
    console.print(f"{title}:")
    for number, thing in enumerate(things, 1):
        console.print(f"  {number}) {shown(thing)}")
    known = [str(thing["name"] or thing["id"]) for thing in things]
    while True:
        answer = str(typer.prompt("Which", default="1", err=True)).strip()
        if answer in known:
            return answer
        if answer.isdigit() and 1 <= int(answer) <= len(known):
            return known[int(answer) - 1]
        console.print(f"say a number from 1 to {len(known)}, or a name")


def confirm_by_name(name: str, what: str) -> bool:
    """Whether the person typed the name of what is about to be lost."""
    return str(typer.prompt(f"{what}\nType {name} to go on", default="", show_default=False, err=True)).strip() == name


def _name(api: Api, proposal: str) -> str:
    while True:
        name = str(typer.prompt("Name", default=proposal, err=True)).strip()
        if not names.VALID.fullmatch(name):
            stderr().print("a name has a-z, 0-9, - and . only, such as web-1 or db.example.com")
        elif api.list("/v1/servers", {"name": name}):
            stderr().print(f"there is already a server {name}")
        else:
            return name


def _image(image: Json) -> str:
    return f"{image['name'] or image['id']}  {image.get('description') or ''}".rstrip()


def _type(type: Json) -> str:
    return f"{type['name']}  {type['cores']} CPU, {gigabytes(type['memory'])} memory, {gigabytes(type['disk'])} disk"
