"""`paddock server sizes`: what a server really takes of the disk."""

from typing import Annotated

import typer

from paddock.cli import lookup
from paddock.cli.output import Format, Output, file_size, show_json, show_one
from paddock.cli.session import api_of


def sizes(
    ctx: typer.Context,
    server: Annotated[str, typer.Argument(metavar="SERVER", help="Name or id.", show_default=False)],
    output: Output = Format.TABLE,
) -> None:
    """Show what a server takes: its disk, logs and memory on its node, and its snapshots.

    Examples:
      paddock server sizes web-1
    """
    api = api_of(ctx)
    found = api.get(f"/x/v1/servers/{lookup.server(api, server)['id']}/sizes")["sizes"]
    if output is Format.JSON:
        show_json(found)
        return
    taken = [(f"Snapshot {s['name'] or s['id']}", file_size(s["bytes"])) for s in found["snapshots"]]
    show_one([
        ("Disk", f"{file_size(found['disk'])} of {file_size(found['disk_limit'])}, without its image"),
        ("Logs", file_size(found["logs"])),
        ("Memory", f"{file_size(found['memory'])}, while it is hibernated" if found["memory"] else None),
        ("Other", file_size(found["other"])), *taken,
    ], found, output)  # fmt: skip
