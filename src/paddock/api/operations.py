"""`python -m paddock.api.operations > docs/api.md`: every operation of /v1 with its state here, made from the routes.

What is refused says why in the words that the refusal itself uses.
"""

import sys
from collections.abc import Iterator
from typing import Any

from paddock.api.openapi import described  # sets Django up
from paddock.api.v1.later import FAMILIES
from paddock.api.v1.server_refusals import REFUSED

PREFIX = "/v1/"
HEAD = """# Operations

Every operation under `/v1`, which has the shape that clients for the Hetzner Cloud API know, with its state here.
This page is made from the code (`python -m paddock.api.operations`), and a test holds it to that.

- **works**: does what clients expect of it.
- **refused**: answers 422 `unsupported_error` with the reason, and changes nothing.
- **none**: there are no such resources yet: lists are empty, and every id is answered 404 `not_found`.

Fields that begin with `x_` are ours; clients ignore them. What goes beyond (`/x/v1`, `/admin/v1`) is described in
`openapi.json`.

## What is different

- Locations: there is one, `local`, with one datacenter, `local-dc1` (shown for older clients).
- `GET /v1/actions` without `id` lists all actions of the project.
- `change_type` takes `x_live: true`: CPUs and memory are added while the server runs, where guest and node allow it.
- `change_protection` of a server takes `delete` and `rebuild` each by itself.
- `enable_rescue` takes SSH keys by name, too.
- A volume takes its place on a node at its first attachment, and stays there.
- `create_image` takes `snapshot`; type `backup` is refused until there are backups by schedule.
- Public addresses: servers have none yet; `x_ssh` says how to log in."""


def text() -> str:
    """The whole page."""
    sections, routes = [HEAD], list(_routes())
    for tag in dict.fromkeys(tag for tag, *_ in routes):
        rows = [f"| `{method} {path}` | {about} | {state} |" for t, method, path, about, state in routes if t == tag]
        sections.append(
            "\n".join(
                (f"\n## {tag[:1].upper()}{tag[1:]}\n", "| operation | what | state |", "| --- | --- | --- |", *rows)
            )
        )
    return "\n".join(sections) + "\n"


def _routes() -> Iterator[tuple[str, str, str, str, str]]:
    """Of each operation: section, method, path, what it does, state."""
    found: list[tuple[str, str, str, str, str]] = []
    for path, methods in described()["paths"].items():
        if path.startswith(PREFIX):
            found += [_route(method.upper(), path, operation) for method, operation in methods.items()]
    yield from sorted(found, key=lambda route: (_place(route[0]), route[2].replace("{", "~"), route[1]))


def _place(section: str) -> tuple[bool, str]:
    """Working sections first, each kind by name."""
    return section in FAMILIES, section


def _route(method: str, path: str, operation: dict[str, Any]) -> tuple[str, str, str, str, str]:
    family = path.removeprefix(PREFIX).partition("/")[0]
    section = family if family in FAMILIES else str(operation["tags"][0])
    what = str(operation.get("description", operation["summary"])).split("\n\n")[0].split(". ")[0]
    return section, method, path, " ".join(what.split()).rstrip("."), _state(method, path, family)


def _state(method: str, path: str, family: str) -> str:
    command = path.rpartition("/")[2]
    if family in FAMILIES:
        made = method == "POST" and path == PREFIX + family
        return f"refused: {FAMILIES[family].why}" if made else "none"
    if family == "servers" and command in REFUSED:
        return f"refused: {REFUSED[command]}"
    return "works"


if __name__ == "__main__":
    sys.stdout.write(text())
