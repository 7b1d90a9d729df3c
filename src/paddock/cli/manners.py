"""What all commands have in common for those who type them: examples that stand out, and words of other tools."""

import inspect
import re

import typer
from rich.markup import escape

ALSO = {"list": "ls", "delete": "rm", "revoke": "rm", "show": "describe"}  # as incus, docker and hcloud call it


def apply(app: typer.Typer) -> None:
    """Give every command of `app`, and of the nouns in it, its manners. To be called when all are there."""
    if app.registered_callback and app.registered_callback.callback:
        app.registered_callback.help = _help(app.registered_callback.callback.__doc__)
    known = {command.name for command in app.registered_commands}
    for command in list(app.registered_commands):
        if command.callback is None:
            continue
        command.help = _help(command.callback.__doc__)
        also = ALSO.get(command.name or "")
        if also and also not in known:
            app.command(also, hidden=True, help=command.help)(command.callback)
    for group in app.registered_groups:
        if group.typer_instance:
            apply(group.typer_instance)


def _help(doc: str | None) -> str:
    """Examples keep their indentation: rich takes away what all lines have in common, unless one begins with a tag."""
    text = escape(inspect.cleandoc(doc or ""))
    return re.sub(r"^(  .*)$", r"[cyan]\1[/cyan]", text, flags=re.MULTILINE)
