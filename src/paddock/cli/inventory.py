"""`paddock inventory`: the servers as Ansible's dynamic inventory, grouped by group, role, label and image.

Ansible runs `paddock-inventory --list` itself when it is given as `-i`; `paddock inventory` shows the same to people.
"""

import json
import re
import sys
from typing import Annotated

import typer

from paddock.base.errors import PaddockError
from paddock.cli import keys
from paddock.cli.client import Json
from paddock.cli.fail import report
from paddock.cli.session import Session, api_of, config_dir
from paddock.cli.state import state_of


def inventory(
    ctx: typer.Context,
    list: Annotated[bool, typer.Option("--list", help="Everything: the default.")] = True,  # noqa: ARG001
    host: Annotated[str, typer.Option(help="One server's variables only.", show_default=False)] = "",
    selector: Annotated[str, typer.Option("-l", "--selector", help="Only with these labels: env=prod.")] = "",
) -> None:
    """Print the running servers as an Ansible inventory (JSON), with all that SSH needs to reach them.

    Ansible reads it by itself:  ansible-playbook -i "$(command -v paddock-inventory)" site.yml
    Groups: group_G, role_R, label_KEY_VALUE, image_I, and group_G_role_R for both.

    Examples:
      paddock inventory
      paddock inventory --host web
    """
    asked = {"sort": "id:asc", **({"label_selector": selector} if selector else {})}
    found = [s for s in api_of(ctx).list("/v1/servers", asked) if state_of(s) == "running" and s.get("x_ssh")]
    shown = next((variables(s) for s in found if s["name"] == host), {}) if host else whole(found)
    print(json.dumps(shown, indent=2, ensure_ascii=False))


def whole(servers: "list[Json]") -> Json:
    """Groups and hosts in the shape of Ansible's inventory scripts."""
    groups: dict[str, list[str]] = {}
    for server in servers:
        for group in groups_of(server):
            groups.setdefault(group, []).append(str(server["name"]))
    hostvars = {str(s["name"]): variables(s) for s in servers}
    return {
        "_meta": {"hostvars": hostvars},
        "all": {"hosts": [str(s["name"]) for s in servers], "children": sorted(groups)},
        **{name: {"hosts": hosts} for name, hosts in sorted(groups.items())},
    }


def groups_of(server: Json) -> "list[str]":
    """The groups that a server is in, as names that Ansible accepts."""
    group, role = str(server.get("x_group") or ""), str(server.get("x_role") or "")
    found = [f"group_{group}"] if group else []
    found += [f"role_{role}"] if role else []
    found += [f"group_{group}_role_{role}"] if group and role else []
    image = (server.get("image") or {}).get("name")
    found += [f"image_{image}"] if image else []
    found += [f"label_{key}_{value}" if value else f"label_{key}" for key, value in server["labels"].items()]
    return [re.sub(r"[^A-Za-z0-9_]", "_", name) for name in found]


def variables(server: Json) -> Json:
    """How Ansible reaches a server, and what is known of it."""
    address = server["x_ssh"]
    options = (
        f"-o HostKeyAlias=paddock-{server['x_uuid']} -o StrictHostKeyChecking=accept-new "
        f"-o UserKnownHostsFile='{config_dir() / 'known_hosts'}'"
    )
    found: Json = {
        "ansible_host": address["host"], "ansible_port": address["port"], "ansible_user": address["user"],
        "ansible_ssh_common_args": options, "paddock_id": server["id"], "paddock_name": server.get("x_name"),
        "paddock_group": server.get("x_group"), "paddock_role": server.get("x_role"), "paddock_node": server["x_node"],
        "paddock_type": server["server_type"]["name"], "paddock_labels": server["labels"],
        "paddock_ready": server["x_ready"]["ready"],
    }  # fmt: skip
    if ours := keys.known_keys():
        found["ansible_ssh_private_key_file"] = str(ours[-1])
    return found


def main() -> None:
    """`paddock-inventory`: what Ansible runs, with `--list` or `--host NAME` and the environment's cloud."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(inventory)
    try:
        sys.exit(app(sys.argv[1:], standalone_mode=False, obj=Session()) or 0)
    except PaddockError as error:
        report(error)
        sys.exit(1)
