"""`paddock server`: what changes a server, or asks it for something, besides its power."""

from pathlib import Path
from typing import Annotated

import typer

from paddock.base.errors import Conflict, Invalid, NameTaken
from paddock.cli import ask, keys, lookup, names, server_fork, server_set
from paddock.cli.client import Api, Json
from paddock.cli.given import text_of
from paddock.cli.output import Format, Output, show_json, stdout
from paddock.cli.server import PANEL, Server, app
from paddock.cli.session import api_of
from paddock.cli.state import state_of
from paddock.cli.wait import Changes, NewName, NoWait, changed_labels, labels_of, tell, until_done

Yes = Annotated[bool, typer.Option("-y", "--yes", help="Don't ask.")]


def register(main: typer.Typer) -> None:
    """The short form that people look for; and what has a file of its own."""
    app.command("set")(server_set.set_server)
    app.command("fork")(server_fork.fork_server)
    main.command("snapshot", rich_help_panel=PANEL)(snapshot)


def _act(api: Api, server: Json, action: str, body: Json | None = None) -> Json:
    return api.post(f"/v1/servers/{server['id']}/actions/{action}", body)


@app.command("rebuild")
def rebuild(
    ctx: typer.Context,
    server: Server,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Name or id.", show_default=False)],
    user_data: Annotated[Path | None, typer.Option("--user-data", help="A file for cloud-init.")] = None,
    yes: Yes = False,
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
) -> None:
    """Make a server anew from an image: same id, name and port; all data on its system disk is lost.

    Examples:
      paddock server rebuild web debian-12
      paddock server rebuild web my-snapshot --yes
    """
    api = api_of(ctx)
    thing, source = lookup.server(api, server), lookup.find(api, "images", image)
    _confirm_loss(str(thing["name"]), yes)
    body: Json = {"image": source["id"]}
    if user_data:
        body["user_data"] = text_of(str(user_data), "user_data")
    answer = _act(api, thing, "rebuild", body)
    done = f"is rebuilt from {source['name'] or source['description']}"
    until_done(api, str(thing["name"]), answer["action"], done, wait=not no_wait, output=output)
    _password(answer, output)


def _confirm_loss(name: str, yes: bool) -> None:
    if yes:
        return
    if not ask.at_terminal():
        raise Conflict(f"this would lose all data on {name}'s system disk", hint="if you mean it: --yes")
    if not ask.confirm_by_name(name, f"All data on the system disk of {name} is lost."):
        raise Conflict(f"that is not its name: {name} stays as it is")


def _password(answer: Json, output: Format) -> None:
    if answer.get("root_password") and output is Format.TABLE:
        stdout().print(f"root's password, shown only now: {answer['root_password']}")


@app.command("change-type")
def change_type(
    ctx: typer.Context,
    server: Server,
    type: Annotated[str, typer.Argument(metavar="TYPE", help="Server type: name or id.", show_default=False)],
    keep_disk: Annotated[bool, typer.Option("--keep-disk", help="Don't grow the disk.")] = False,
    live: Annotated[bool, typer.Option("--live", help="Add CPUs and memory while it runs.")] = False,
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
) -> None:
    """Give a server another type: more or less CPU and memory, more disk. It must be off, unless --live.

    A disk that has grown never shrinks again: --keep-disk leaves the way back open.

    Examples:
      paddock server change-type web medium
      paddock server change-type web medium --keep-disk --live
    """
    api = api_of(ctx)
    thing, plan = lookup.server(api, server), lookup.find(api, "server_types", type)
    body: Json = {"server_type": plan["name"], "upgrade_disk": not keep_disk}
    if live:
        body["x_live"] = True
    action = _act(api, thing, "change_type", body)["action"]
    until_done(api, str(thing["name"]), action, f"is of type {plan['name']}", wait=not no_wait, output=output)


@app.command("reset-password")
def reset_password(
    ctx: typer.Context,
    server: Server,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only on the disk of a server that is off; taken by itself when it is.")
    ] = False,
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
) -> None:
    """Give root a new password: by the guest agent of a running server, or on the disk of one that is off.

    Examples:
      paddock server reset-password web
      paddock stop web && paddock server reset-password web --offline
    """
    api = api_of(ctx)
    thing = lookup.server(api, server)
    offline = offline or state_of(thing) == "off"
    answer = _act(api, thing, "reset_password", {"x_offline": True} if offline else None)
    done, quiet = "has a new root password", output is Format.JSON
    until_done(api, str(thing["name"]), answer["action"], done, wait=not no_wait, quiet=quiet)
    if output is Format.JSON:
        show_json(answer)
    _password(answer, output)


@app.command("rescue")
def rescue(
    ctx: typer.Context,
    server: Server,
    off: Annotated[bool, typer.Option("--off", help="The next start is an ordinary one.")] = False,
    reboot: Annotated[bool, typer.Option("--reboot", help="Go there at once: press the reset button.")] = False,
    ssh_key: Annotated[
        list[str] | None, typer.Option("--ssh-key", help="Key: name, id or file.", show_default=False)
    ] = None,
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
) -> None:
    """Boot a small rescue system next time, with the server's disks attached: once, within an hour. What comes after,
    a start, a reboot, a reset or the guest's own reboot, boots the own disk again.

    Examples:
      paddock server rescue web --reboot && paddock ssh web
      paddock server rescue web --off
    """
    api = api_of(ctx)
    thing = lookup.server(api, server)
    name, quiet = str(thing["name"]), output is Format.JSON
    if off:
        answer = _act(api, thing, "disable_rescue")
        until_done(api, name, answer["action"], "starts as usual", wait=not no_wait, output=output)
        return
    answer = _act(api, thing, "enable_rescue", {"type": "linux64", "ssh_keys": keys.chosen(api, ssh_key or [])})
    wait = reboot or not no_wait  # the server takes one order at a time
    until_done(api, name, answer["action"], "boots the rescue system next time", wait=wait, quiet=quiet)
    if reboot:
        verb = "reset" if thing["status"] == "running" else "poweron"  # one that is paused too
        action = _act(api, thing, verb)["action"]
        until_done(api, name, action, "boots the rescue system", wait=not no_wait, quiet=quiet)
    if quiet:
        show_json(answer)
    _password(answer, output)


@app.command("attach-iso")
def attach_iso(
    ctx: typer.Context,
    server: Server,
    iso: Annotated[str, typer.Argument(metavar="ISO", help="Name or id.", show_default=False)],
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
) -> None:
    """Put an ISO into a server's CD drive. A server that boots by BIOS starts from it next time.

    Examples:
      paddock iso list
      paddock server attach-iso web my-installer
    """
    api = api_of(ctx)
    thing, disc = lookup.server(api, server), lookup.find(api, "isos", iso)
    action = _act(api, thing, "attach_iso", {"iso": disc["name"]})["action"]
    until_done(api, str(thing["name"]), action, f"has {disc['name']} in its drive", wait=not no_wait, output=output)


@app.command("detach-iso")
def detach_iso(ctx: typer.Context, server: Server, no_wait: NoWait = False, output: Output = Format.TABLE) -> None:
    """Take the ISO out of a server's CD drive.

    Examples:
      paddock server detach-iso web
    """
    api = api_of(ctx)
    thing = lookup.server(api, server)
    action = _act(api, thing, "detach_iso")["action"]
    until_done(api, str(thing["name"]), action, "has an empty drive", wait=not no_wait, output=output)


@app.command("snapshot")
def snapshot(
    ctx: typer.Context,
    server: Server,
    name: Annotated[str, typer.Option("-n", "--name", help="Else it has an id only.", show_default=False)] = "",
    description: Annotated[str, typer.Option("-d", "--description", help="What it is.", show_default=False)] = "",
    label: Annotated[list[str] | None, typer.Option("--label", help="key=value", show_default=False)] = None,
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
) -> None:
    """Make an image of a server's system disk as it is now. It may run meanwhile; volumes are not part of it.

    Examples:
      paddock snapshot web --name before-upgrade
      paddock launch before-upgrade
    """
    api = api_of(ctx)
    thing = lookup.server(api, server)
    if name:
        _check_free(api, name)
    body: Json = {"type": "snapshot", "description": description or f"snapshot of {thing['name']}"}
    body["labels"] = labels_of(label)
    answer = _act(api, thing, "create_image", body)
    made = answer["image"]
    if name:
        made = api.put(f"/v1/images/{made['id']}", {"x_name": name})["image"]
    called = made["name"] or made["id"]
    done = f"has snapshot {called}; use it: paddock launch {called}"
    quiet = output is Format.JSON
    until_done(api, str(thing["name"]), answer["action"], done, wait=not no_wait, quiet=quiet)
    if quiet:
        show_json(api.get(f"/v1/images/{made['id']}")["image"])


def _check_free(api: Api, name: str) -> None:
    """Before the snapshot is taken, since it gets its name after that."""
    if not names.IMAGE.fullmatch(name):
        raise Invalid(f"{name!r} is no name of an image", hint="it has a-z, 0-9, - and . only", field="name")
    if api.list("/v1/images", {"name": name}) or api.list("/v1/isos", {"name": name}):
        raise NameTaken(f"there is already an image or ISO {name}", hint="choose another --name")


@app.command("protect")
def protect(
    ctx: typer.Context,
    server: Server,
    off: Annotated[bool, typer.Option("--off", help="Take the protection away.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Protect a server from being deleted and rebuilt.

    Examples:
      paddock server protect web
      paddock server protect web --off
    """
    api = api_of(ctx)
    thing = lookup.server(api, server)
    action = _act(api, thing, "change_protection", {"delete": not off, "rebuild": not off})["action"]
    tell(action, f"{thing['name']} {'may be deleted and rebuilt' if off else 'is protected'}", output)


@app.command("rename")
def rename(
    ctx: typer.Context,
    server: Server,
    name: NewName,
    output: Output = Format.TABLE,
) -> None:
    """Give a server another name. The guest keeps the host name that it has.

    Examples:
      paddock server rename web www
    """
    api = api_of(ctx)
    thing = lookup.server(api, server)
    changed = api.put(f"/v1/servers/{thing['id']}", {"name": name})["server"]
    tell(changed, f"{thing['name']} is now {name}", output)


@app.command("label")
def label(
    ctx: typer.Context,
    server: Server,
    labels: Changes,
    output: Output = Format.TABLE,
) -> None:
    """Set or remove labels.

    Examples:
      paddock server label web env=prod old-
    """
    api = api_of(ctx)
    thing = lookup.server(api, server)
    body = {"labels": changed_labels(thing["labels"], labels)}
    changed = api.put(f"/v1/servers/{thing['id']}", body)["server"]
    tell(changed, f"{thing['name']} is labelled", output)


@app.command("join")
def join(
    ctx: typer.Context,
    server: Server,
    group: Annotated[str, typer.Argument(metavar="GROUP", help="Placement group.", show_default=False)],
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
) -> None:
    """Put a server that is off into a placement group.

    Examples:
      paddock server join db-1 databases
    """
    api = api_of(ctx)
    thing, wanted = lookup.server(api, server), lookup.find(api, "placement_groups", group)
    action = _act(api, thing, "add_to_placement_group", {"placement_group": wanted["id"]})["action"]
    until_done(api, str(thing["name"]), action, f"is in {wanted['name']}", wait=not no_wait, output=output)


@app.command("leave")
def leave(ctx: typer.Context, server: Server, no_wait: NoWait = False, output: Output = Format.TABLE) -> None:
    """Take a server out of its placement group.

    Examples:
      paddock server leave db-1
    """
    api = api_of(ctx)
    thing = lookup.server(api, server)
    action = _act(api, thing, "remove_from_placement_group")["action"]
    until_done(api, str(thing["name"]), action, "is in no placement group", wait=not no_wait, output=output)


@app.command("screen")
def screen(ctx: typer.Context, server: Server, output: Output = Format.TABLE) -> None:
    """Print an address of the server's screen for a browser's VNC client (noVNC): good once, for a minute.

    Examples:
      paddock server screen web
    """
    api = api_of(ctx)
    answer = _act(api, lookup.server(api, server), "request_console")
    if output is Format.JSON:
        show_json(answer)
    else:
        stdout().print(f"{answer['wss_url']}\npassword: {answer['password']}")
