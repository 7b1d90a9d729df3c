"""`paddock image check`: whether a server is a good template to make an image of, looked at from within.

It logs in as a server's owner would, so that what it says of SSH and keys is true; where that fails, the guest agent
is asked for the rest.
"""

from typing import Annotated

import typer

from paddock.base.errors import Conflict, PaddockError
from paddock.base.run import run
from paddock.cli import lookup
from paddock.cli.client import Api, Json
from paddock.cli.output import Column, Format, Output, printable, show_json, show_rows, stdout
from paddock.cli.server import Server
from paddock.cli.session import api_of
from paddock.cli.ssh import command_line
from paddock.cli.state import state_of

LOGIN = 60.0  # seconds for a login and the look around
NEEDED = ("ssh", "key", "python", "dhcp")  # of a template: the others make what is made of it better

# Prints a line for each thing: its name, yes or no, and what was seen.
SCRIPT = r"""
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
say() { printf '%s\t%s\t%s\n' "$1" "$2" "$3"; }
first() { for p in "$@"; do command -v "$p" 2>/dev/null && return; done; return 1; }
seen() { ps ax 2>/dev/null | grep -v grep | grep -q "$1" || ps 2>/dev/null | grep -v grep | grep -q "$1"; }

keys=$(grep -c '^[^#]' /root/.ssh/authorized_keys 2>/dev/null)
if [ "${keys:-0}" -gt 0 ]; then say key yes "$keys in /root/.ssh/authorized_keys"
else say key no "none in /root/.ssh/authorized_keys"; fi

if p=$(first python3 python); then say python yes "$p"; else say python no "no python3 and no python"; fi

if ip -4 addr show scope global 2>/dev/null | grep -q dynamic; then say dhcp yes "an address with a lease"
elif seen 'udhcpc\|dhclient\|dhcpcd'; then say dhcp yes "a DHCP client runs"
elif f=$(grep -lisE 'dhcp4: *(true|yes)|DHCP=(yes|ipv4|true)|inet dhcp|method=auto|BOOTPROTO=.?dhcp' /etc/netplan/* \
    /run/systemd/network/* /etc/systemd/network/* /etc/network/interfaces /etc/network/interfaces.d/* \
    /etc/NetworkManager/system-connections/* /etc/sysconfig/network-scripts/* 2>/dev/null | head -n 1) &&
    [ -n "$f" ]; then say dhcp yes "$f says so"
else say dhcp no "no address with a lease, no DHCP client, none configured"; fi

if [ -e /dev/virtio-ports/org.qemu.guest_agent.0 ] && seen qemu-ga; then say agent yes "qemu-ga runs"
elif p=$(first qemu-ga); then say agent no "$p is there, but does not run"
else say agent no "no qemu-ga: install qemu-guest-agent"; fi

if p=$(first cloud-init); then say cloud-init yes "$p"
else say cloud-init no "none: what is made of it keeps this one's name, and gets no keys and no user data"; fi

if seen ttyS0; then say console yes "a login on ttyS0"
else say console no "nobody on ttyS0: systemctl enable serial-getty@ttyS0"; fi
exit 0
"""
TITLES = {
    "ssh": "reached by SSH", "key": "a key for root", "python": "Python", "dhcp": "network by DHCP",
    "agent": "guest agent", "cloud-init": "cloud-init", "console": "serial console",
}  # fmt: skip
COLUMNS = (
    Column("CHECK", lambda f: TITLES[f["check"]]),
    Column("GOOD", lambda f: f["good"]),
    Column("NEEDED", lambda f: f["needed"]),
    Column("FOUND", lambda f: f["found"], least=20),
)


def check(
    ctx: typer.Context,
    server: Server,
    login: Annotated[str, typer.Option("-l", "--login", help="User; else the image's.", show_default=False)] = "",
    output: Output = Format.TABLE,
) -> None:
    """Check whether a server is good to make an image of: SSH, a key for root, Python, DHCP, and what else helps.

    What two servers must not share (host keys, machine id, ...) is removed and told by `paddock image create`.
    Ends with 1 when something that is needed is missing.

    Examples:
      paddock image check template && paddock image create web-base --from template
    """
    api = api_of(ctx)
    thing = lookup.server(api, server)
    if state_of(thing) != "running":
        raise Conflict(f"{thing['name']} is {state_of(thing)}", hint=f"start it: paddock start {thing['name']}")
    found = look(api, thing, login)
    if output is Format.JSON:
        show_json(found)
    else:
        show_rows(found, COLUMNS, output)
    missing = [TITLES[f["check"]] for f in found if f["needed"] and not f["good"]]
    if missing:
        raise Conflict(f"{thing['name']} is no good template yet: {', '.join(missing)}", hint="see the list above")
    if output is Format.TABLE:
        name = thing["name"]
        stdout().print(f"{name} is a good template; make an image of it: paddock image create NAME --from {name}")


def look(api: Api, thing: Json, login: str) -> list[Json]:
    """What was found, thing by thing. Raises PaddockError when it can be looked at neither by SSH nor by its agent."""
    try:
        said = run(_ssh(thing, login), input=SCRIPT, timeout=LOGIN).stdout
        ssh = _found("ssh", good=True, found=f"port {thing['x_ssh']['port']}, logged in as {_user(thing, login)}")
    except PaddockError as e:
        ssh = _found("ssh", good=False, found=e.message.strip().splitlines()[-1][-200:])
        body = {"argv": ["/bin/sh", "-c", SCRIPT], "stdin": "", "timeout": LOGIN}
        try:
            said = str(api.post(f"/x/v1/servers/{thing['id']}/exec", body, timeout=LOGIN + 10)["stdout"])
        except PaddockError as agent:
            what = f"{thing['name']} can't be looked at: by SSH: {ssh['found']}; by its guest agent: {agent.message}"
            raise Conflict(what, hint="the installation may not have ended: paddock console, paddock vnc") from e
    return [ssh, *_parsed(said)]


def _ssh(thing: Json, login: str) -> list[str]:
    options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
    first, *rest = command_line(thing, login, ["sh -s"])
    return [first, *options, *rest]


def _user(thing: Json, login: str) -> str:
    return login or str(thing["x_ssh"]["user"])


def _parsed(said: str) -> list[Json]:
    """The script's lines; whatever else the guest says is left out."""
    lines = (line.split("\t", 2) for line in printable(said).splitlines())
    known = {parts[0]: parts for parts in lines if len(parts) == 3 and parts[0] in TITLES and parts[0] != "ssh"}
    return [
        _found(name, good=known[name][1] == "yes", found=known[name][2])
        if name in known
        else _found(name, good=False, found="the guest gave no answer")
        for name in TITLES
        if name != "ssh"
    ]


def _found(check: str, *, good: bool, found: str) -> Json:
    return {"check": check, "good": good, "needed": check in NEEDED, "found": found}
