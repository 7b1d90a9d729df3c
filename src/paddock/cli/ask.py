"""Asking a person at a terminal: numbered menus, and a name to be typed before something is lost."""

import sys
from collections.abc import Callable, Sequence

import typer
from rich.text import Text

from paddock.cli.client import Json
from paddock.cli.output import stderr


def at_terminal() -> bool:
    """Whether there is a person to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def menu(title: str, things: Sequence[Json], shown: Callable[[Json], str]) -> Json:
    """Let one be chosen by its number in the menu, or by name; the first is the default."""
    console = stderr()
    console.print(f"{title}:")
    for number, thing in enumerate(things, 1):
        console.print(Text(f"  {number}) {shown(thing)}"), no_wrap=True, overflow="ellipsis", soft_wrap=False)
    named = {str(thing["name"] or thing["id"]): thing for thing in things}
    while True:
        answer = str(typer.prompt("Which", default="1", err=True)).strip()
        if answer.isascii() and answer.isdigit() and 1 <= int(answer) <= len(things):
            return things[int(answer) - 1]
        if answer in named:
            return named[answer]
        remark(f"say a number from 1 to {len(things)}, or a name")


def remark(text: str) -> None:
    """Say something about an answer, in words that are not cut in two."""
    stderr().print(text, soft_wrap=False)


def confirm_by_name(name: str, what: str) -> bool:
    """Whether the person typed the name of what is about to be lost."""
    return str(typer.prompt(f"{what}\nType {name} to go on", default="", show_default=False, err=True)).strip() == name
